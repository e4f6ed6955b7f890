"""Running a study: harvesting, training, evaluation and the report."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from dictlearn.activations.store import ActivationStore
from dictlearn.comparison.report.html import REPORT_FILE, report_html
from dictlearn.core.batches import Activations
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.files import CONFIG_FILE, load
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.loading import load_model
from dictlearn.records.agreement import AGREEMENT_FILE, AgreementRecords
from dictlearn.records.concepts import CONCEPTS_FILE, ConceptRecords
from dictlearn.records.features import FEATURES_FILE, FeatureRecords
from dictlearn.records.results import RESULTS_FILE, Records
from dictlearn.studies.folder import STUDY, begin
from dictlearn.studies.study import Place, Study
from dictlearn.text.tokens import load_tokens
from dictlearn.training.checkpoints import CHECKPOINT_FILE
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from dictlearn.training.output import stopped_in
from dictlearn.training.progress import LOG_FILE

R = TypeVar("R", Records, ConceptRecords, AgreementRecords, FeatureRecords)
_BATCHES_OF_A_BASELINE = 100
"""Number of batches that baselines are fitted to; fewer give a biased mean ablation."""


def run_study(study: Study, out: str | Path, *, overwrite: bool = False) -> Records:
    """The records of `study`, after running it in the folder `out`.

    The folder contains `study.json` (configs, seeds, library versions and the revision of the
    code), the activations, the dictionaries, `results.json`, the analyses of the inspected
    dictionaries and `report.html`. Existing parts are not computed again, so an interrupted run
    continues when the function is called again. With `overwrite`, the files of an earlier run are
    removed first, and no others.

    Raises:
        InputError: the folder holds a run of another study, or conflicting files.
        StorageError: the folder cannot be written.
    """
    run = _Run(study, OwnFiles.of(out, STUDY))
    with run.own.locked():
        run.begin(overwrite=overwrite)
        records = run.results()
        report = report_html(
            records,
            title=study.question,
            training_log=run.logs(),
            concepts=run.concepts(),
            agreement=run.agreement(),
            features=run.features(),
        )
        run.own.write_text(REPORT_FILE, report)
    return records


@dataclass(frozen=True)
class _Run:
    """One study in one folder; models, tokens and dictionaries are loaded on demand."""

    study: Study
    own: OwnFiles

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.own.path

    def begin(self, *, overwrite: bool) -> None:
        """Write `study.json`, or check that it describes the same study."""
        begin(self.own, self.study.to_dict(), self._source, overwrite=overwrite)

    def _source(self) -> dict[str, Any]:
        """The provenance of model and tokens, after checking that the model has every place."""
        for place in self.study.places:
            place.sites(self.model)
        return {
            "model": model_provenance(self.model).to_compare(),
            "held_out": self.held_out.describe(),
            "train": self.train.describe(),
        }

    def results(self) -> Records:
        """The metrics of every dictionary, on the same held-out tokens."""
        return self._kept(
            RESULTS_FILE,
            Records,
            lambda: evaluate(self.dictionaries, self.model, self.held_out, bits=self.study.bits),
        )

    def concepts(self) -> ConceptRecords | None:
        """The precision of the inspected dictionaries of the first seed at detecting concepts."""
        if not self._inspected(1):
            return None
        return self._kept(
            CONCEPTS_FILE,
            ConceptRecords,
            lambda: evaluate_concepts(self._inspected(1), self.model, self.documents),
        )

    def agreement(self) -> AgreementRecords | None:
        """The similarity of the inspected dictionaries of two seeds; None if there is only one."""
        if len(self._inspected(2)) < 2:
            return None
        return self._kept(
            AGREEMENT_FILE,
            AgreementRecords,
            lambda: compare_features(self._inspected(2), self.model, self.held_out),
        )

    def features(self) -> FeatureRecords | None:
        """Cards of some features of the inspected dictionaries of the first seed."""
        if not self._inspected(1) or not self.study.n_cards:
            return None
        return self._kept(
            FEATURES_FILE,
            FeatureRecords,
            lambda: describe_features(
                self._inspected(1), self.model, self.held_out, self.study.n_cards
            ),
        )

    def logs(self) -> dict[str, Path]:
        """The training logs of the first seed by place, and of runs in which something diverged."""
        first = self.study.seeds[0]
        return {
            self._at("", place, None if seed == first else seed): folder / LOG_FILE
            for place in self.study.places
            for seed in self.study.seeds
            for folder in [self._trained(place, seed)]
            if seed == first or stopped_in(folder)
        }

    def _kept(self, file: str, kind: type[R], make: Callable[[], R]) -> R:
        """The content of `file`, which is computed first if it does not exist."""
        if not (self.folder / file).exists():
            make().save(self.own)
        return kind.load(self.folder)

    # Inputs of the parts

    @cached_property
    def model(self) -> LanguageModel:
        """The language model."""
        return load_model(self.study.model)

    @cached_property
    def train(self) -> Tokens:
        """The training tokens."""
        study = self.study
        return load_tokens(study.text, self.model, split="train", n_tokens=study.train_tokens)

    @cached_property
    def held_out(self) -> Tokens:
        """The evaluation tokens."""
        study = self.study
        return load_tokens(study.text, self.model, split="held_out", n_tokens=study.held_out_tokens)

    @cached_property
    def documents(self) -> Tokens:
        """Held-out tokens in whole documents, for the evaluation of concepts."""
        study = self.study
        return load_tokens(
            study.text, self.model, split="held_out", n_tokens=study.concept_tokens,
            whole_documents=True,
        )  # fmt: skip

    @cached_property
    def dictionaries(self) -> dict[str, FeatureDictionary]:
        """All dictionaries of the study, trained if they do not exist yet."""
        found: dict[str, FeatureDictionary] = {}
        for place in self.study.places:
            learned: dict[str, FeatureDictionary] = {}
            for seed in self.study.seeds:
                run = replace(self.study.fit, seed=seed)
                ready = self._fitted(place, self._trained(place, seed), self.study.learned, run)
                learned |= {self._at(name, place, seed): d for name, d in ready.items()}
            run = replace(self.study.fit, steps=_BATCHES_OF_A_BASELINE, seed=self.study.seeds[0])
            plain = {**self.study.baselines, **self._randoms(place, learned)}
            fixed = self._fitted(place, self._place(place) / "baselines", plain, run)
            found |= learned | {self._at(name, place): d for name, d in fixed.items()}
        return found

    def _fitted(
        self,
        place: Place,
        folder: Path,
        configs: Mapping[str, DictionaryConfig],
        run: FitConfig,
    ) -> dict[str, FeatureDictionary]:
        """The dictionaries in `folder` but for those that diverged, trained first if need be."""
        if not configs:
            return {}
        begun = (folder / CHECKPOINT_FILE).exists()
        left = configs.keys() - stopped_in(folder)
        if begun or not all((folder / name / CONFIG_FILE).exists() for name in left):
            Console(stderr=True).print(f"training {folder.relative_to(self.folder)}")
            out = self._written(folder, "training")
            fit(configs, self._activations(place), run, out=out, overwrite=not begun)
            left = configs.keys() - stopped_in(folder)
        return {name: load(folder / name) for name in configs if name in left}

    def _activations(self, place: Place) -> Activations:
        folder = self._place(place) / "activations"
        sites = place.sites(self.model)
        try:
            return ActivationStore.open(folder)
        except CorruptFileError:  # never written, or not to the end
            out = self._written(folder, "harvest")
            return harvest(self.model, self.train, sites, out, overwrite=True)

    @torch.no_grad()
    def _randoms(
        self, place: Place, learned: Mapping[str, FeatureDictionary]
    ) -> dict[str, DictionaryConfig]:
        """A random dictionary for each L0 of the learned ones on held-out tokens, rounded up."""
        n_features = self.study.randoms_with
        if n_features is None:
            return {}
        live = harvest(self.model, self.held_out, place.sites(self.model))
        rows = live.rows(0, 0, live.n_rows)
        found = set()
        for dictionary in learned.values():
            acts = dictionary.encode_sparse(rows.batch(dictionary.sites).x)
            found.add(math.ceil(float(acts.l0().float().mean())))
        return {f"random_k{k}": RandomConfig(n_features=n_features, k=k) for k in sorted(found)}

    def _inspected(self, n_seeds: int) -> dict[str, FeatureDictionary]:
        """The inspected dictionaries of the first place and seeds, if they did not diverge."""
        place = self.study.places[0]
        names = (
            self._at(name, place, seed)
            for name in self.study.inspected
            for seed in self.study.seeds[:n_seeds]
        )
        return {name: self.dictionaries[name] for name in names if name in self.dictionaries}

    # Folders and names of the parts

    def _written(self, folder: Path, run: str) -> Path:
        """`folder`, registered as the output of a `run` of this study."""
        return self.own.folder(*folder.relative_to(self.folder).parts, run=run).path

    def _place(self, place: Place) -> Path:
        return self.folder / str(place) if len(self.study.places) > 1 else self.folder

    def _trained(self, place: Place, seed: int) -> Path:
        folder = self._place(place) / "dictionaries"
        return folder / f"seed{seed}" if len(self.study.seeds) > 1 else folder

    def _at(self, name: str, place: Place, seed: int | None = None) -> str:
        """The name of a dictionary among all of the study."""
        parts = [name]
        if len(self.study.places) > 1:
            parts.append(str(place))
        if seed is not None and len(self.study.seeds) > 1:
            parts.append(f"s{seed}")
        return " ".join(filter(None, parts))
