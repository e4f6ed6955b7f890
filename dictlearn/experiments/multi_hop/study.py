"""`dictlearn bench multi-hop`: do transcoders show the hops of a circuit that is known?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import ClassVar

from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.experiments.experiment import Experiment, Found, Part
from dictlearn.experiments.multi_hop.measures import fidelity
from dictlearn.experiments.multi_hop.model import all_tokens, planted_model
from dictlearn.experiments.multi_hop.page import (
    CROSS_LAYER,
    LOOK_UP,
    NEURONS,
    PER_LAYER,
    multi_hop_page,
)
from dictlearn.experiments.multi_hop.planted import planted_look_up, planted_neurons
from dictlearn.experiments.page import Page
from dictlearn.harvesting import harvest
from dictlearn.lm.mlps import mlp_sites
from dictlearn.synthetic.boolean import TWO_HOPS
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

_COPIES = 64
"""How often each of the inputs is among the rows of training."""


@dataclass(frozen=True, kw_only=True)
class MultiHopStudy(Experiment):
    """Transcoders by layer and across layers at several sparsities, beside the circuit that the
    weights of the model hold and a look-up table of it."""

    name: ClassVar[str] = "multi-hop"
    question: ClassVar[str] = "Do transcoders show the two hops of a known circuit?"

    n_features: int = 8
    """Features of each layer."""
    l1_coefficients: tuple[float, ...] = (0.001, 0.01, 0.05)
    """Costs of one unit of coefficient, in standardized units."""
    steps: int = 1000
    """Steps of training, of 64 rows each."""
    n_seeds: int = 3
    """Seeds of the dictionaries."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "steps", "n_seeds")
        self._require(bool(self.l1_coefficients) and min(self.l1_coefficients, default=0) >= 0,
                      "l1_coefficients", "some numbers of at least 0")  # fmt: skip

    def parts(self) -> Mapping[str, Part]:
        """The dictionaries written by hand, and those trained with each seed."""
        trained = {f"trained-{i}": Part(partial(self._trained, i)) for i in range(self.n_seeds)}
        return {"planted": Part(self._planted)} | trained

    def page(self, found: Mapping[str, Found]) -> Page:
        """The measures by sparsity, and the part of the answer that skips the second layer."""
        return multi_hop_page(self, found)

    def _planted(self, own: OwnFiles) -> Found:
        model = planted_model(TWO_HOPS)
        return {
            NEURONS: fidelity(model, TWO_HOPS, planted_neurons(model)).to_dict(),
            LOOK_UP: fidelity(model, TWO_HOPS, planted_look_up(model, TWO_HOPS)).to_dict(),
        }

    def _trained(self, seed: int, own: OwnFiles) -> Found:
        """For each sparsity the measures of transcoders of both layers, and of one across both."""
        model = planted_model(TWO_HOPS)
        layers = [mlp_sites(model, layer) for layer in range(model.cfg.n_layers)]
        configs, sites = dict[str, DictionaryConfig](), dict[str, Sites]()
        groups, n = dict[str, dict[str, list[str]]](), self.n_features
        for l1 in self.l1_coefficients:
            across, each = f"across-{l1:g}", [f"mlp{i}-{l1:g}" for i in range(len(layers))]
            configs[across] = CrossLayerTranscoderConfig(n_features=n, l1_coefficient=l1)
            configs |= dict.fromkeys(each, TranscoderConfig(n_features=n, l1_coefficient=l1))
            sites |= dict(zip(each, layers, strict=True))
            groups[f"{l1:g}"] = {PER_LAYER: each, CROSS_LAYER: [across]}
        run = FitConfig(steps=self.steps, batch_size=64, learning_rate=2e-2, seed=seed)
        tokens = all_tokens(TWO_HOPS, _COPIES)
        with TemporaryDirectory() as folder:
            rows = harvest(
                model, tokens, layers, f"{folder}/rows", batch_size=len(tokens), progress=False
            )
            dictionaries = fit(configs, rows, run, sites=sites, progress=False)
        return {
            l1: {kind: fidelity(model, TWO_HOPS, {name: dictionaries[name] for name in names})
                 .to_dict() for kind, names in group.items()}
            for l1, group in groups.items()
        }  # fmt: skip
