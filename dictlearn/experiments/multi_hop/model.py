"""A transformer whose weights are those of a Boolean circuit."""

from collections.abc import Mapping
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.tokens import Tokens
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import parameters_of
from dictlearn.lm.native import NativeModelConfig, new_model
from dictlearn.synthetic.boolean import BooleanCircuit
from dictlearn.text.tokens import hash_ids

_EPSILON = 1e-5
"""That of the norms of native models."""


def planted_model(circuit: BooleanCircuit, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A native model that computes `circuit` exactly, one gate a neuron, at the last token.

    Each variable has two dimensions, which are (1, -1) if it is true and (-1, 1) if it is false,
    so that norms change nothing there. One head of layer 0, which attends to all tokens alike,
    moves the inputs to the last token, where its bias makes all other variables false. MLPs have
    ReLU neurons that are 1 where their gate is active and 0 elsewhere; they make a variable true.
    The logits of the tokens `yes` and `no` are 1 and -1 if the answer is true, else -1 and 1.
    """
    n_inputs, n_layers = len(circuit.inputs), 1 + max(circuit.layers)
    rows = directions(circuit).to(dtype)
    d = rows.shape[1]
    config = NativeModelConfig(
        n_layers=n_layers, d_model=d, n_heads=1, n_ctx=n_inputs + 1, d_vocab=circuit.d_vocab,
        d_mlp=max(circuit.layers.count(layer) for layer in range(n_layers)), act_fn="relu",
    )  # fmt: skip
    model = new_model(config, dtype=dtype)
    weights = parameters_of(model)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.fill_(float(".ln" in name and name.endswith("weight")))
        for name in [f"layers.{layer}.ln2.weight" for layer in range(n_layers)] + ["ln_out.weight"]:
            weights[name].fill_(sqrt(1 + _EPSILON))  # the variance is 1
        inputs = rows[:n_inputs]
        weights["tok_embed.weight"][: circuit.ask] = torch.stack([-inputs, inputs], 1).flatten(0, 1)
        weights["layers.0.attn.v.weight"].copy_(torch.eye(d))
        # Behind the norm an input is longer than it was, by its share of all dimensions.
        gain = (n_inputs + 1) * sqrt(2 / d + _EPSILON)
        weights["layers.0.attn.o.weight"].copy_(gain * inputs.T @ inputs / 2)
        weights["layers.0.attn.o.bias"].copy_(-rows[n_inputs:].sum(dim=0))
        for layer in range(n_layers):
            _plant_gates(circuit, layer, rows, weights, f"layers.{layer}.mlp.")
        answer = rows[circuit.variables.index(circuit.answer)]
        weights["head.weight"][[circuit.no, circuit.yes]] = torch.stack([-answer, answer]) / 2
    return model


def all_tokens(circuit: BooleanCircuit, copies: int = 1) -> Tokens:
    """The sequences of all values of the inputs, in order, several times.

    Only the last token of each, at which the circuit works, gives rows and counts in metrics.
    """
    ids = circuit.ids(circuit.assignments).repeat(copies, 1)
    return Tokens(ids, ids == circuit.ask, "Boolean circuit", "all", hash_ids(ids))


def directions(circuit: BooleanCircuit) -> Float[Tensor, "variable d"]:
    """The direction of each variable in the stream of `planted_model`; their squared norm is 2."""
    return torch.eye(len(circuit.variables)).repeat_interleave(2, dim=1) * torch.tensor(
        [1.0, -1.0]
    ).repeat(len(circuit.variables))


def _plant_gates(
    circuit: BooleanCircuit,
    layer: int,
    rows: Float[Tensor, "variable d"],
    weights: Mapping[str, Tensor],
    prefix: str,
) -> None:
    """Write the gates of a layer: the sum of k literals, each 1 or -1, less k - 1."""
    own = [gate for gate, at in zip(circuit.gates, circuit.layers, strict=True) if at == layer]
    for i, gate in enumerate(own):
        literals = torch.zeros(len(rows), dtype=rows.dtype)
        for variable, value in gate.reads.items():
            literals[circuit.variables.index(variable)] = 1 if value else -1
        weights[f"{prefix}fc_in.weight"][i] = literals @ rows / 2
        weights[f"{prefix}fc_in.bias"][i] = 1 - len(gate.reads)
        weights[f"{prefix}fc_out.weight"][:, i] = 2 * rows[circuit.variables.index(gate.writes)]
