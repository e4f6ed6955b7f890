"""`dictlearn bench greater-than`: which few features of an MLP know which years come later?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.attribute import attribute
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.own_files import OwnFiles
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.experiments.experiment import Experiment, Found, Part, beside
from dictlearn.experiments.greater_than import measures
from dictlearn.experiments.greater_than.page import GRAPH, greater_than_page
from dictlearn.experiments.greater_than.prompts import (
    TASK,
    YearPrompts,
    require_able,
    synthetic_prompts,
    text_prompts,
)
from dictlearn.experiments.page import Page
from dictlearn.finetuning.blocks import Sampler
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.native import NativeModelConfig, new_model
from dictlearn.lm.saving import save_model
from dictlearn.text.tokens import Tokens, load_tokens

NATIVE = NativeModelConfig(
    n_layers=1, d_model=64, n_heads=4, d_mlp=256, n_ctx=4, d_vocab=TASK.d_vocab
)
"""The model that is trained in the study."""
_MODEL = "model"
_RANDOM = 5
"""Random orders of features."""
_ATTRIBUTED = 512
"""Features of the graph whose incoming edges are found."""


@dataclass(frozen=True, kw_only=True)
class GreaterThanStudy(Experiment):
    """Features and neurons of each MLP, kept a few at a time, and what the features stand for."""

    name: ClassVar[str] = "greater-than"
    question: ClassVar[str] = "Which few features of an MLP know which years come later?"

    model: str = ""
    """The model; by default a small one of bare years is trained in the study with each seed."""
    text: str = ""
    """The text on which the transcoders of a given model learn; by default the model's own."""
    model_steps: int = 2000
    """Steps of training of the small model."""
    n_features: int = 512
    """Features of each transcoder."""
    k: int = 16
    """Active features of each transcoder at a token."""
    steps: int = 1500
    """Steps of training of the transcoders inside the model."""
    n_seeds: int = 3
    """Seeds of the small model, the transcoders, and random features."""
    n_looked_at: int = 24
    """Features, those of the largest variance, whose input and output years are compared."""

    def __post_init__(self) -> None:
        self._require_count("model_steps", "n_features", "k", "steps", "n_seeds")
        self._require(2 <= self.n_looked_at <= self.n_features, "n_looked_at",
                      f"from 2 to {self.n_features}")  # fmt: skip

    def parts(self) -> Mapping[str, Part]:
        """For each seed the model, its transcoders, and what is measured on them."""
        parts = {}
        for seed in range(self.n_seeds):
            model, trained = f"model-{seed}", f"transcoders-{seed}"
            parts[model] = Part(partial(self._subject, seed))
            parts[trained] = Part(partial(self._transcoders, seed), (model,))
            parts[f"curves-{seed}"] = Part(partial(self._curves, seed), (model, trained))
        return parts

    def page(self, found: Mapping[str, Found]) -> Page:
        """The probability difference by features kept, and input and output years of features."""
        return greater_than_page(self, found)

    # Parts

    def _subject(self, seed: int, own: OwnFiles) -> Found:
        """The model, able to do the task, and the difference without each of its MLPs."""
        if self.model:
            model = load_model(self.model)
        else:
            model = new_model(NATIVE, seed=seed)
            run = FinetuneConfig(
                steps=self.model_steps, batch_size=128, model_learning_rate=3e-3, seed=seed
            )
            finetune(model, {}, TASK, run, progress=False)
            save_model(model, own.folder(_MODEL))
        prompts = self._prompts(model)
        require_able(prompts, model)
        found = prompts.probabilities(model)
        removed = {
            f"mlp{layer}": measures.removed_difference(
                model, mlp_sites(model, layer).target.hook, prompts
            )
            for layer in range(model.cfg.n_layers)
        }
        return {"difference": prompts.difference(found), "removed": removed,
                "blind": prompts.blind_difference(found)}  # fmt: skip

    def _transcoders(self, seed: int, own: OwnFiles) -> Found:
        model = self._model(own, seed)
        config = TopKTranscoderConfig(n_features=self.n_features, k=self.k)
        sites = {f"mlp{layer}": mlp_sites(model, layer) for layer in range(model.cfg.n_layers)}
        run = FinetuneConfig(
            steps=self.steps, batch_size=8 if self.model else 128, learning_rate=3e-3,
            match_clean=True, seed=seed,
        )  # fmt: skip
        found = finetune(
            model, dict.fromkeys(sites, config), self._data(model), run, sites=sites, progress=False
        )
        found.save(own.folder(_MODEL))
        return {}

    def _curves(self, seed: int, own: OwnFiles) -> Found:
        model = self._model(own, seed)
        trained = Finetuned.load(beside(own, f"transcoders-{seed}") / _MODEL, model)
        prompts = self._prompts(model)
        if seed == 0:
            middle = len(prompts.ids) // 2
            attribute(
                model, prompts.ids[middle], trained.dictionaries, prompts.target(middle),
                n_features=_ATTRIBUTED, allow_other_model=True, progress=False,
            ).save(own.folder(GRAPH))  # fmt: skip
        layers = {}
        for layer, (name, transcoder) in enumerate(trained.dictionaries.items()):
            sites = mlp_sites(model, layer)
            neurons = NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites)
            acts = measures.last_acts(model, transcoder, prompts)
            by_neuron = measures.last_acts(model, neurons, prompts)
            order, random = measures.by_variance(acts), range(100 * seed, 100 * seed + _RANDOM)
            shuffled = [_shuffled(acts, number) for number in random]
            layers[name] = {
                "features": _kept(model, transcoder, prompts, acts, [order]),
                "neurons": _kept(
                    model, neurons, prompts, by_neuron, [measures.by_variance(by_neuron)]
                ),
                "random": _kept(model, transcoder, prompts, acts, shuffled),
                "whole": measures.whole_difference(model, transcoder, prompts),
                "n_active": int((acts > 0).any(dim=0).sum()),
                **self._years(model, transcoder, prompts, acts, order[: self.n_looked_at], layer),
            }
        return layers

    def _years(
        self,
        model: LanguageModel,
        transcoder: FeatureDictionary,
        prompts: YearPrompts,
        acts: Float[Tensor, "prompt feature"],
        chosen: Int[Tensor, " m"],
        layer: int,
    ) -> Found:
        """Input and output years of the chosen features, and how they agree."""
        direct = measures.direct_effects(model, transcoder.atoms[chosen], prompts)
        scores = measures.input_scores(model, transcoder, chosen, layer, prompts)
        own = acts[:, chosen]
        pairs = {
            "input": measures.correlations(scores[:, prompts.years], own.T),
            "output": measures.advantages(own, direct, prompts),
        }
        return {
            "chosen": chosen.tolist(), "direct": direct.tolist(), "scores": scores.tolist(),
            "acts": own.T.tolist(),
            **{key: measures.own_and_other(found) for key, found in pairs.items()},
        }  # fmt: skip

    # Model and data

    def _model(self, own: OwnFiles, seed: int) -> LanguageModel:
        return load_model(self.model or beside(own, f"model-{seed}") / _MODEL)

    def _prompts(self, model: LanguageModel) -> YearPrompts:
        return text_prompts(model) if self.model else synthetic_prompts(TASK)

    def _data(self, model: LanguageModel) -> Tokens | Sampler:
        if not self.model:
            return TASK
        return load_tokens(self.text or self.model, model, split="train", n_tokens=1_000_000)


def _kept(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    prompts: YearPrompts,
    acts: Float[Tensor, "prompt feature"],
    orders: Sequence[Int[Tensor, " feature"]],
) -> dict[str, list[float]]:
    """The curves of `measures.kept_curve`, means over `orders`, by what the other features are."""
    found = {}
    for name, others in {"zero": torch.zeros_like(acts[0]), "mean": acts.mean(dim=0)}.items():
        curves = [measures.kept_curve(model, dictionary, prompts, o, others) for o in orders]
        found[name] = [fmean(values) for values in zip(*curves, strict=True)]
    return found


def _shuffled(acts: Float[Tensor, "prompt feature"], seed: int) -> Int[Tensor, " feature"]:
    """Active features in random order, and then the others."""
    active = (acts > 0).any(dim=0)
    first = active.nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    first = first[torch.randperm(len(first), generator=generator)]
    return torch.cat([first, (~active).nonzero()[:, 0]])
