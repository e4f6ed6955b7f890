"""`dictlearn bench tokfsm`: Table 1 of Codebook Features, and what the codes stand for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from dictlearn.core.own_files import OwnFiles
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.experiments.experiment import Experiment, Found, Part, beside
from dictlearn.experiments.page import Page
from dictlearn.experiments.tokfsm import measures
from dictlearn.experiments.tokfsm.page import tokfsm_page
from dictlearn.experiments.tokfsm.recipes import (
    ABLATIONS,
    DETAILED,
    END_TO_END,
    RECIPES,
    TABLE_1,
    Recipe,
    Row,
    slug,
)
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.native import new_model
from dictlearn.lm.saving import save_model

_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class TokFSMStudy(Experiment):
    """A model of a finite-state machine, and what codebooks inside it cost and show."""

    name: ClassVar[str] = "tokfsm"
    question: ClassVar[str] = "What do codebooks inside a model of a finite-state machine cost?"

    size: str = "small"
    """"small", in minutes on a CPU, or "paper", for a GPU."""
    n_seeds: int = 3
    """Seeds of the model and the codebooks."""

    def __post_init__(self) -> None:
        self._require_choice("size", tuple(RECIPES))
        self._require_count("n_seeds")

    @property
    def recipe(self) -> Recipe:
        """The settings of this size."""
        return RECIPES[self.size]

    def parts(self) -> Mapping[str, Part]:
        """Base models, the rows of Table 1 with every seed, changes of one setting, and SAEs."""
        parts: dict[str, Part] = {}
        for seed in range(self.n_seeds):
            base = f"base-{seed}"
            parts[base] = Part(partial(self._base, seed))
            for name, settings in END_TO_END.items():
                work = partial(self._end_to_end, dict(settings), seed)
                parts[f"sae-{slug(name)}-{seed}"] = Part(work, (base,))
            for name, row in TABLE_1.items():
                work = partial(self._row, row, seed, None, name == DETAILED)
                parts[f"{slug(name)}-{seed}"] = Part(work, (base,))
        for name, row in ABLATIONS.items():
            work = partial(self._row, row, 0, self.recipe.n_steps_ablated, False)
            parts[f"changed-{slug(name)}"] = Part(work, ("base-0",))
        return parts

    def page(self, found: Mapping[str, Found]) -> Page:
        """Table 1 beside the published numbers, and what codes stand for."""
        return tokfsm_page(self.recipe, self.n_seeds, found)

    def _base(self, seed: int, own: OwnFiles) -> Found:
        recipe = self.recipe
        model = new_model(recipe.model, seed=seed)
        finetune(model, {}, recipe.machine, replace(recipe.base, seed=seed), progress=False)
        save_model(model, own.folder(_MODEL))
        return self._measured(Finetuned(model, {}), seed)

    def _row(self, row: Row, seed: int, steps: int | None, detailed: bool, own: OwnFiles) -> Found:
        recipe, base = self.recipe, self._model(own, seed)
        model = self._model(own, seed)
        found = finetune(
            model, recipe.codebooks(row), recipe.machine, recipe.run(row, seed, steps),
            progress=False,
        )  # fmt: skip
        return self._measured(found, seed) | (self._detailed(found, base) if detailed else {})

    def _measured(self, found: Finetuned, seed: int) -> Found:
        """Loss, accuracy and transitions."""
        recipe, run = self.recipe, (found.model, found.dictionaries)
        return measures.prediction(recipe.machine, *run, recipe.n_evaluated) | {
            "transitions": measures.transitions(recipe.machine, *run, recipe.n_sampled, seed)
        }

    def _detailed(self, found: Finetuned, base: LanguageModel) -> Found:
        recipe, run = self.recipe, (found.model, found.dictionaries)
        machine = recipe.machine
        neurons = [f"blocks.{layer}.{hook}" for layer in range(recipe.model.n_layers)
                   for hook in ("hook_attn_out", "hook_mlp_out")]  # fmt: skip
        return {
            "purity": measures.purities(machine, *run),
            "divergence": measures.intervention_divergence(
                machine, *run, components(tuple(found.dictionaries))
            ),
            "precision": measures.state_precision(machine, *run, base, neurons, recipe.n_evaluated),
            "frequencies": measures.code_frequencies(machine, *run, recipe.n_evaluated),
        }

    def _end_to_end(self, settings: dict[str, Any], seed: int, own: OwnFiles) -> Found:
        recipe, model = self.recipe, self._model(own, seed)
        config = TopKSAEConfig(n_features=4 * recipe.model.d_model, k=2)
        saes = {f"blocks.{layer}.mlp.hook_out": config for layer in range(recipe.model.n_layers)}
        run = replace(
            recipe.finetune, steps=recipe.n_steps_ablated, learning_rate=None,
            model_learning_rate=None, seed=seed, **settings,
        )  # fmt: skip
        found = finetune(model, saes, recipe.machine, run, progress=False)
        return self._measured(found, seed) | {
            "unexplained": measures.variance_unexplained(
                recipe.machine, model, found.dictionaries, recipe.n_evaluated
            )
        }

    def _model(self, own: OwnFiles, seed: int) -> LanguageModel:
        return load_model(beside(own, f"base-{seed}") / _MODEL)


def components(names: tuple[str, ...]) -> dict[str, list[str]]:
    """Dictionaries by the part of the model where they stand: each layer's, and all."""
    found: dict[str, list[str]] = {}
    for name in names:
        layer = name.split(".")[1]
        part = "attention" if ".attn." in name else "MLP"
        found[f"layer {layer} {part}"] = [name]
    for part, mark in (("attention", ".attn."), ("MLP", ".mlp.")):
        found[f"all {part}"] = [name for name in names if mark in name]
    return found | {"all": list(names)}
