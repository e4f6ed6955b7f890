"""`dictlearn bench circuit`: which features make the model choose "She" or "He"?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import LogitDifference
from dictlearn.circuits.validation import compare_effects, removal_effects
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.own_files import OwnFiles
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.experiments.circuit.page import GRAPH, circuit_page
from dictlearn.experiments.circuit.prompts import COUNTS, HE, NAMES, PROMPT, SHE
from dictlearn.experiments.experiment import Experiment, Found, Part, beside
from dictlearn.experiments.page import Page
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.text.tokens import load_tokens

_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class CircuitStudy(Experiment):
    """Transcoders of all MLPs, the graphs of some prompts, and interventions on the model."""

    name: ClassVar[str] = "circuit"
    question: ClassVar[str] = "Which few features make a model choose a pronoun?"

    model: str = "builtin:stories"
    """The model; it needs a tokenizer that has both pronouns as one token."""
    n_features: int = 1024
    """Features of each transcoder."""
    k: int = 32
    """Active features of each transcoder at a token."""
    steps: int = 1000
    """Steps of training inside the model."""
    n_seeds: int = 3
    """Seeds of the transcoders, and of random features."""
    n_attributed: int = 2048
    """Nodes of each graph whose incoming edges are found, the most influential ones: all of
    transcoders, and a tenth of the neurons."""
    n_compared: int = 50
    """Nodes of each graph whose effects are compared with interventions."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "k", "steps", "n_seeds", "n_attributed",
                            "n_compared")  # fmt: skip

    def parts(self) -> Mapping[str, Part]:
        """The neurons' circuits; for each seed, transcoders and their circuits."""
        parts = {"neurons": Part(self._neurons)}
        for seed in range(self.n_seeds):
            trained = f"transcoders-{seed}"
            parts[trained] = Part(partial(self._transcoders, seed))
            parts[f"circuits-{seed}"] = Part(partial(self._circuits, seed), (trained,))
        return parts

    def page(self, found: Mapping[str, Found]) -> Page:
        """The part of the preference that is left without nodes, and how effects agree."""
        return circuit_page(self, found)

    # Parts

    def _transcoders(self, seed: int, own: OwnFiles) -> Found:
        model = load_model(self.model)
        config = TopKTranscoderConfig(n_features=self.n_features, k=self.k)
        sites = {f"mlp{layer}": mlp_sites(model, layer) for layer in range(model.cfg.n_layers)}
        text = load_tokens(self.model, model, split="train", n_tokens=1_000_000)
        run = FinetuneConfig(
            steps=self.steps, batch_size=8, learning_rate=3e-3, match_clean=True, seed=seed
        )
        found = finetune(
            model, dict.fromkeys(sites, config), text, run, sites=sites, progress=False
        )
        found.save(own.folder(_MODEL))
        return {}

    def _circuits(self, seed: int, own: OwnFiles) -> Found:
        found = Finetuned.load(beside(own, f"transcoders-{seed}") / _MODEL)
        name, pronoun = next(iter(NAMES.items()))
        if seed == 0:
            graph = self._graph(found.model, found.dictionaries, name, _target(pronoun))
            graph.save(own.folder(GRAPH))
        return self._all_prompts(found.model, found.dictionaries, seed)

    def _neurons(self, own: OwnFiles) -> Found:
        model, neurons = load_model(self.model), dict[str, FeatureDictionary]()
        for layer in range(model.cfg.n_layers):
            sites = mlp_sites(model, layer)
            config = NeuronsConfig(mlp=mlp_weights(model, sites))
            neurons[f"mlp{layer}"] = config.build(sites)
        return self._all_prompts(model, neurons, None)

    def _all_prompts(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, FeatureDictionary],
        seed: int | None,
    ) -> Found:
        """By name: the preference, what is left of it, scores of the graph, correlations."""
        return {
            name: self._prompt(model, dictionaries, name, pronoun, seed)
            for name, pronoun in NAMES.items()
        }

    def _prompt(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, FeatureDictionary],
        name: str,
        pronoun: str,
        seed: int | None,
    ) -> Found:
        target = _target(pronoun)
        graph = self._graph(model, dictionaries, name, target)
        clean = float(graph.targets.values[0])
        features = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
        strongest = features[graph.total_effects()[0][features].argsort(descending=True)]
        found: Found = {"preference": clean, "n_nodes": len(features),
                        "left": self._left(model, graph, dictionaries, target, strongest),
                        "strongest": [graph.name(int(node)) for node in strongest[:4]]}  # fmt: skip
        if seed is None:
            return found
        shuffled = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        found["random"] = self._left(model, graph, dictionaries, target, features[shuffled])
        found["replacement"], found["completeness"] = graph.scores()
        effects = compare_effects(model, graph, dictionaries, target, self.n_compared)
        for column in ("held", "actual"):
            found[f"correlation_{column}"] = float(effects["predicted"].corr(effects[column]))
        return found

    def _graph(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, FeatureDictionary],
        name: str,
        target: LogitDifference,
    ) -> CircuitGraph:
        return attribute(
            model, PROMPT.format(name), dictionaries, target, n_features=self.n_attributed,
            allow_other_model=True, progress=False,
        )  # fmt: skip

    def _left(
        self,
        model: LanguageModel,
        graph: CircuitGraph,
        dictionaries: Mapping[str, FeatureDictionary],
        target: LogitDifference,
        nodes: torch.Tensor,
    ) -> list[float]:
        """The part of the preference that is left without the first nodes, for each number."""
        groups = [nodes[:n].tolist() for n in COUNTS]
        change = removal_effects(model, graph, dictionaries, target, groups)[:, 0]
        return (1 + change / float(graph.targets.values[0])).tolist()


def _target(pronoun: str) -> LogitDifference:
    return LogitDifference(pronoun, HE if pronoun == SHE else SHE)
