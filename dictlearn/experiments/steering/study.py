"""`dictlearn bench steering`: one topic, several ways to push a model's texts towards it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.files import load, save
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.experiments.experiment import Experiment, Found, Part, beside
from dictlearn.experiments.page import Page
from dictlearn.experiments.steering.measures import Steered, steering
from dictlearn.experiments.steering.page import steering_page
from dictlearn.experiments.steering.reading import concept_precision
from dictlearn.experiments.steering.topics import (
    TOPICS,
    activity,
    has_topic,
    mean_activations,
    standardized_difference,
    topic_codes,
)
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.harvesting import harvest
from dictlearn.interventions.choice import Activate
from dictlearn.interventions.direction import Push
from dictlearn.interventions.edit import Edit
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites
from dictlearn.text.tokens import load_tokens
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

_MODEL = "model"
STRENGTHS = (0.3, 0.6)
"""Norms of what is added along a direction, as multiples of the mean norm of an activation."""
CODES = {"8 codes, last slot": (8, "last"), "4 codes, all slots": (4, "all"),
         "8 codes, all slots": (8, "all")}  # fmt: skip
"""Numbers of codes, in different heads, and the slots that they take."""


@dataclass(frozen=True, kw_only=True)
class SteeringStudy(Experiment):
    """Topics steered by codes of every head, by SAE features, and by untrained directions."""

    name: ClassVar[str] = "steering"
    question: ClassVar[str] = "Which features steer a model to a topic, and at what cost?"

    model: str = "builtin:stories"
    """The model; it needs a tokenizer."""
    hook: str = "blocks.2.hook_resid_post"
    """The hook of the SAE and of directions."""
    n_layers: int = 4
    """Layers with a codebook in every head, from the first."""
    n_seeds: int = 3
    """Seeds of codebooks, SAEs, random directions and samples."""
    steps: int = 500
    """Steps of finetuning through the codebooks."""
    n_samples: int = 10
    """Texts after each of the four prompts."""
    n_new: int = 100
    """Longest text, in tokens."""
    n_read: int = 12_000
    """Tokens of held-out text on which codes are scored as detectors of concepts."""
    n_blocks: int = 400
    """Blocks of training text from which features are chosen."""

    def __post_init__(self) -> None:
        self._require_count("n_layers", "n_seeds", "steps", "n_samples", "n_new", "n_read",
                            "n_blocks")  # fmt: skip

    def parts(self) -> Mapping[str, Part]:
        """For each seed: codebooks, an SAE, concepts, texts without steering, and each topic."""
        parts: dict[str, Part] = {}
        for seed in range(self.n_seeds):
            trained = (f"codes-{seed}", f"sae-{seed}")
            parts |= zip(
                trained, (Part(partial(self._codes, seed)), Part(partial(self._sae, seed))),
                strict=True,
            )  # fmt: skip
            parts[f"reading-{seed}"] = Part(partial(self._reading, seed), trained)
            parts[f"baseline-{seed}"] = Part(partial(self._baseline, seed), trained)
            for topic in TOPICS:
                parts[f"{topic}-{seed}"] = Part(partial(self._topic, topic, seed), trained)
        return parts

    def page(self, found: Mapping[str, Found]) -> Page:
        """Rates by topic and method, beside what they cost."""
        return steering_page(self, found)

    # Parts

    def _codes(self, seed: int, own: OwnFiles) -> Found:
        model = load_model(self.model)
        config = CodebookConfig(n_codes=256, k=8, n_groups=model.cfg.n_heads, combine="mean")
        codebooks = {f"blocks.{n}.attn.hook_z": config for n in range(self.n_layers)}
        run = FinetuneConfig(
            steps=self.steps, batch_size=8, learning_rate=1e-2, model_learning_rate=2e-4, seed=seed
        )
        found = finetune(model, codebooks, self._text(model), run, progress=False)
        found.save(own.folder(_MODEL))
        return {}

    def _sae(self, seed: int, own: OwnFiles) -> Found:
        model = load_model(self.model)
        activations = harvest(model, self._text(model), hook_sites(model, self.hook))
        run = FitConfig(steps=3 * self.steps, batch_size=1024, learning_rate=3e-3, seed=seed)
        sae = fit(TopKSAEConfig(n_features=1024, k=16), activations, run, progress=False)
        save(sae, own.folder(_MODEL))
        return {}

    def _reading(self, seed: int, own: OwnFiles) -> Found:
        scene = _Scene(self, own, seed)
        text = load_tokens(self.model, scene.model, split="held_out", n_tokens=self.n_read)
        return concept_precision(scene.codes, scene.model, text)

    def _baseline(self, seed: int, own: OwnFiles) -> Found:
        scene = _Scene(self, own, seed)
        return {
            "clean": scene.measured(scene.model, {}, ()),
            "codes in place": scene.measured(scene.codes.model, scene.codes.dictionaries, ()),
        }

    def _topic(self, topic: str, seed: int, own: OwnFiles) -> Found:
        scene = _Scene(self, own, seed)
        label = has_topic(scene.texts, topic)
        found: Found = {"labelled": int(label.sum())}
        if not label.any() or label.all():
            return found
        codes = scene.codes
        rows = activity(codes.model, codes.dictionaries, scene.ids, keep_error=False)
        for name, (n, slots) in CODES.items():
            chosen = topic_codes(rows, codes.dictionaries, label, n)
            active = [Activate(tuple(some), slots, at=at) for at, some in chosen.items()]
            found[name] = scene.measured(codes.model, codes.dictionaries, active)
        for name, edits, dictionaries in self._directions(scene, label, seed):
            found[name] = scene.measured(scene.model, dictionaries, edits)
        return found

    def _directions(
        self, scene: "_Scene", label: Bool[Tensor, " block"], seed: int
    ) -> "list[tuple[str, list[Edit], dict[str, FeatureDictionary]]]":
        """Names, edits and dictionaries of the ways along a direction."""
        means, norm = mean_activations(scene.model, self.hook, scene.ids)
        difference = means[label].mean(dim=0) - means[~label].mean(dim=0)
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(len(difference), generator=generator)
        sae = {"sae": scene.sae}
        rows = activity(scene.model, sae, scene.ids, keep_error=True)["sae"]
        feature = int(standardized_difference(rows, label).argmax())
        found: list[tuple[str, list[Edit], dict[str, FeatureDictionary]]] = []
        for strength in STRENGTHS:
            amount = strength * norm
            found += [
                (f"SAE feature, {strength}", [Push(feature, amount, at="sae")], sae),
                (f"mean difference, {strength}", [Push(difference, amount, at=self.hook)], {}),
            ]
        return [*found, (f"random direction, {strength}", [Push(random, amount, at=self.hook)], {})]

    def _text(self, model: LanguageModel) -> Tokens:
        return load_tokens(self.model, model, split="train", n_tokens=500_000)


class _Scene:
    """The models, dictionaries and texts of one seed."""

    def __init__(self, study: SteeringStudy, own: OwnFiles, seed: int) -> None:
        self._study, self._seed = study, seed
        self.model = load_model(study.model)
        self.codes = Finetuned.load(beside(own, f"codes-{seed}") / _MODEL)
        self.sae = load(beside(own, f"sae-{seed}") / _MODEL)
        self.ids: Int[Tensor, "block pos"] = study._text(self.model).ids[: study.n_blocks]
        self.texts: Sequence[str] = [self.model.tokenizer.decode(row.tolist()) for row in self.ids]
        held_out = load_tokens(study.model, self.model, split="held_out", n_tokens=6_000)
        self.held_out: Int[Tensor, "block pos"] = held_out.ids

    def measured(
        self,
        model: LanguageModel,
        dictionaries: Mapping[str, FeatureDictionary],
        edits: Sequence[Edit],
    ) -> dict[str, float]:
        """Rates of all topics, and costs; without an edit of codes, errors are kept."""
        keep_error = model is self.model
        return steering(
            Steered(model, dictionaries, edits, keep_error), self.model, self.held_out,
            n_samples=self._study.n_samples, n_new=self._study.n_new, seed=self._seed,
        )  # fmt: skip
