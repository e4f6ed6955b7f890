"""Running a study: harvesting, training, evaluation and the report."""

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from dictlearn.comparison.report.html import REPORT_FILE
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.own_files import OwnFiles
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.findings import Findings, kept
from dictlearn.progress import timed
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.records.results import Records
from dictlearn.studies.folder import LENGTHS, STUDY, begin, lengths_in
from dictlearn.studies.inputs import Inputs
from dictlearn.studies.study import Study
from dictlearn.studies.training import Training


def run_study(study: Study, out: str | Path, *, overwrite: bool = False, nproc: int = 1) -> Records:
    """The records of `study`, after running it in the folder `out`.

    The folder contains `study.json` (configs, seeds, library versions and the revision of the
    code), the activations, the dictionaries, `results.json`, the analyses of the inspected
    dictionaries and `report.html`. Existing parts are not computed again, so an interrupted run
    continues when the function is called again. With `overwrite`, the files of an earlier run are
    removed first, and no others. Seeds, and the rates of a search, are trained in `nproc` processes
    at a time.

    Raises:
        InputError: the folder holds a run of another study, or conflicting files.
        StorageError: the folder cannot be written.
    """
    run = _Run(study, OwnFiles(Path(out), STUDY), nproc)
    with run.own.locked():
        run.begin(overwrite=overwrite)
        found = Findings(
            metrics=run.metrics(),
            concepts=run.concepts(),
            agreement=run.agreement(),
            cards=run.cards(),
        )
        lengths = run.lengths()
        with timed("report"):
            page = found.html(study.question, run.training.logs(), lengths=lengths)
        run.own.write_text(REPORT_FILE, page)
    return found.metrics


@dataclass(frozen=True)
class _Run:
    """One study in one folder."""

    study: Study
    own: OwnFiles
    nproc: int

    @cached_property
    def inputs(self) -> Inputs:
        """Model, tokens and activations."""
        return Inputs(self.study, self.own)

    @cached_property
    def training(self) -> Training:
        """The dictionaries."""
        return Training(self.inputs, self.nproc)

    def begin(self, *, overwrite: bool) -> None:
        """Write `study.json`, or check that it describes the same study."""
        begin(self.own, self.study.to_dict(), self.inputs.source, overwrite=overwrite)

    def metrics(self) -> Records:
        """The metrics of every dictionary, on the same held-out tokens."""
        return kept(
            self.own,
            Records,
            lambda: evaluate(
                self.training.dictionaries,
                self.inputs.model,
                self.inputs.held_out,
                bits=self.study.bits,
            ),
        )

    def concepts(self) -> ConceptRecords | None:
        """The precision of the inspected dictionaries of the first seed at detecting concepts."""
        if not self._inspected(1):
            return None
        return kept(
            self.own,
            ConceptRecords,
            lambda: evaluate_concepts(self._inspected(1), self.inputs.model, self.inputs.documents),
        )

    def agreement(self) -> AgreementRecords | None:
        """The similarity of the inspected dictionaries of two seeds; None if there is only one."""
        if len(self._inspected(2)) < 2:
            return None
        return kept(
            self.own,
            AgreementRecords,
            lambda: compare_features(self._inspected(2), self.inputs.model, self.inputs.held_out),
        )

    def cards(self) -> FeatureRecords | None:
        """Cards of some features of the inspected dictionaries of the first seed.

        Among them are those that detect a concept best.
        """
        if not self._inspected(1) or not self.study.n_cards:
            return None
        return kept(self.own, FeatureRecords, self._described)

    def _described(self) -> FeatureRecords:
        concepts = self.concepts()  # read again, but only where there are no cards yet
        return describe_features(
            self._inspected(1),
            self.inputs.model,
            self.inputs.held_out,
            self.study.n_cards,
            also=None if concepts is None else concepts.best_features(),
        )

    def lengths(self) -> Lengths | None:
        """The search for learning rates, and results after each length of training."""
        for steps in self.study.lengths[:-1]:
            own = self.own.folder(LENGTHS, str(steps))
            kept(own, Records, partial(self._after, steps))
        return lengths_in(self.own.path)

    def _after(self, steps: int) -> Records:
        return evaluate(self.training.after(steps), self.inputs.model, self.inputs.held_out)

    def _inspected(self, n_seeds: int) -> dict[str, FeatureDictionary]:
        """The inspected dictionaries of the first place and seeds, if they did not diverge."""
        place, found = self.study.places[0], self.training.dictionaries
        names = (
            self.training.name(name, place, seed)
            for name in self.study.inspected
            for seed in self.study.seeds[:n_seeds]
        )
        return {name: found[name] for name in names if name in found}
