"""The model, the tokens and the activations of a study."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dictlearn.activations.store import ActivationStore
from dictlearn.core.batches import Activations
from dictlearn.core.errors import ConfigError, CorruptFileError
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.tokens import Tokens
from dictlearn.harvesting import harvest
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.loading import load_model
from dictlearn.studies.study import Place, Study
from dictlearn.text.tokens import load_tokens, some_blocks


@dataclass(frozen=True)
class Inputs:
    """The inputs of one study in one folder, loaded or computed on first use."""

    study: Study
    own: OwnFiles

    def source(self) -> dict[str, Any]:
        """The provenance of model and tokens, after checking the places in the model."""
        targets = Counter(str(place.sites(self.model).target) for place in self.study.places)
        if self.study.search and len(targets) < len(self.study.places):
            raise ConfigError(
                "a search tells places apart by their targets: required different ones, got "
                f"{', '.join(targets.elements())}; study them one by one"
            )
        described = {"held_out": self.held_out, "train": self.train}
        if self.study.search:
            described["validation"] = self.validation
        model = {"model": model_provenance(self.model).to_compare()}
        return model | {name: tokens.describe() for name, tokens in described.items()}

    @cached_property
    def model(self) -> LanguageModel:
        """The language model."""
        return load_model(self.study.model)

    @cached_property
    def train(self) -> Tokens:
        """The training tokens."""
        return self._tokens("train", self.study.train_tokens)

    @cached_property
    def validation(self) -> Tokens:
        """The tokens that learning rates are chosen on: training text, after the training tokens.

        Empty without a search.
        """
        n = self.study.search.validation_tokens if self.study.search else 0
        both = self._tokens("train", self.study.train_tokens + n)
        return some_blocks(both, slice(len(self.train), None), "validation")

    @cached_property
    def held_out(self) -> Tokens:
        """The evaluation tokens."""
        return self._tokens("held_out", self.study.held_out_tokens)

    @cached_property
    def documents(self) -> Tokens:
        """Held-out tokens in whole documents, for the evaluation of concepts."""
        return self._tokens("held_out", self.study.concept_tokens, whole_documents=True)

    def activations(self, place: Place) -> Activations:
        """The activations at a place, harvested unless the folder has them."""
        folder = self.folder(place) / "activations"
        sites = place.sites(self.model)
        try:
            return ActivationStore.open(folder)
        except CorruptFileError:  # never written, or not to the end
            out = self.written(folder, "harvest")
            return harvest(self.model, self.train, sites, out, overwrite=True)

    def folder(self, place: Place) -> Path:
        """The folder of a place: one inside the study's if there are several places."""
        return self.own.path / str(place) if len(self.study.places) > 1 else self.own.path

    def written(self, folder: Path, run: str) -> Path:
        """`folder`, registered as the output of a `run` of this study."""
        return self.own.folder(*folder.relative_to(self.own.path).parts, run=run).path

    def _tokens(self, split: str, n: int, *, whole_documents: bool = False) -> Tokens:
        return load_tokens(self.study.text, self.model, split, n, whole_documents=whole_documents)
