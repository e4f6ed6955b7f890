"""Dictionaries of a planted model that are written by hand: the circuit itself, and a shortcut."""

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.dictionaries.cross_layer_transcoder import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.experiments.multi_hop.model import directions
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.synthetic.boolean import BooleanCircuit


def planted_neurons(model: LanguageModel) -> dict[str, FeatureDictionary]:
    """The neurons of all MLPs, which are the gates of a planted model."""
    found = dict[str, FeatureDictionary]()
    for layer in range(model.cfg.n_layers):
        sites = mlp_sites(model, layer)
        found[f"mlp{layer}"] = NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites)
    return found


@torch.no_grad()
def planted_look_up(
    model: LanguageModel, circuit: BooleanCircuit
) -> dict[str, CrossLayerTranscoder]:
    """A cross-layer transcoder that has the whole circuit by heart, without error.

    Its only features that are ever active read the first layer. Each is active for one assignment
    of values to the inputs, and writes at once what the gates of all layers write there.
    """
    active = circuit.active(circuit.assignments)
    values, active = (rows[active.any(dim=1)] for rows in (circuit.assignments, active))
    config = CrossLayerTranscoderConfig(n_features=len(values))
    sites = config.among([mlp_sites(model, layer) for layer in range(model.cfg.n_layers)])
    found = config.build(sites)
    assert isinstance(found, CrossLayerTranscoder)
    for parameter in found.parameters():
        parameter.zero_()
    rows = directions(circuit)
    literals = (2.0 * values - 1) @ rows[: len(circuit.inputs)] / 2
    found.W_enc[0].copy_(literals)
    found.b_enc.data[: len(values)] = 1 - len(circuit.inputs)
    writes = 2 * rows[[circuit.variables.index(gate.writes) for gate in circuit.gates]]
    layers = torch.tensor(circuit.layers)
    written = [(active & (layers == layer)).float() @ writes for layer in range(found.n_layers)]
    found.W_dec[0].copy_(torch.cat(written, dim=1))
    return {"across": found}
