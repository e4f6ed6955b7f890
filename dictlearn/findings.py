"""The records that studies and reports leave in their folder, and the pages about all of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dictlearn.comparison.report.html import report_html
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.core.errors import InputError
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import code_revision, library_versions
from dictlearn.records.agreement import AGREEMENT_FILE, AgreementRecords
from dictlearn.records.base import SavedRecords
from dictlearn.records.concepts import CONCEPTS_FILE, ConceptRecords
from dictlearn.records.features import FEATURES_FILE, FeatureRecords
from dictlearn.records.results import RESULTS_FILE, SUMS_FILE, Records
from dictlearn.training.checkpoints import differences

PAGE_FILE = "report.md"
RECORD_FILES = (RESULTS_FILE, SUMS_FILE, CONCEPTS_FILE, AGREEMENT_FILE, FEATURES_FILE)
"""All files of records."""

R = TypeVar("R", bound=SavedRecords)


def kept(own: OwnFiles, kind: type[R], make: Callable[[], R]) -> R:
    """The records of this kind in a folder, which are made and saved first if it has none."""
    return found if (found := there(own.path, kind)) is not None else remade(own, kind, make)


def remade(own: OwnFiles, kind: type[R], make: Callable[[], R]) -> R:
    """Records that are made now, and saved in the place of those in the folder."""
    make().save(own)
    return kind.load(own.path)


def there(folder: Path, kind: type[R]) -> R | None:
    """The records of this kind in a folder, or None.

    Raises:
        CorruptFileError: their file is damaged.
    """
    return kind.load(folder) if (folder / kind.file).exists() else None


@dataclass(frozen=True, kw_only=True, repr=False)
class Findings:
    """Metrics of dictionaries, and further records of the same dictionaries."""

    metrics: Records
    concepts: ConceptRecords | None = None
    agreement: AgreementRecords | None = None
    cards: FeatureRecords | None = None

    @classmethod
    def of(cls, folder: Path) -> "Findings":
        """The records in a folder.

        Raises:
            CorruptFileError: it has no metrics, or a file is damaged.
        """
        return Findings(
            metrics=Records.load(folder),
            concepts=there(folder, ConceptRecords),
            agreement=there(folder, AgreementRecords),
            cards=there(folder, FeatureRecords),
        )

    def html(
        self,
        title: str,
        training_log: Mapping[str, str | Path],
        *,
        about: Iterable[str] = (),
        lengths: Lengths | None = None,
    ) -> str:
        """The page `report.html`; `about` are lines on how the numbers were made."""
        return report_html(
            self.metrics,
            title=title,
            about=about,
            training_log=training_log,
            lengths=lengths,
            concepts=self.concepts,
            agreement=self.agreement,
            features=self.cards,
        )

    def markdown(
        self,
        title: str,
        *,
        about: Iterable[str] = (),
        origin: str = "",
        lengths: Lengths | None = None,
        images: Mapping[str, str | Path] | None = None,
    ) -> str:
        """The page `report.md`, with the arguments of `results_page`."""
        return results_page(
            self.metrics,
            title,
            about=about,
            origin=origin,
            concepts=self.concepts,
            agreement=self.agreement,
            lengths=lengths,
            images=images,
        )


# The description of a run in its folder


def code() -> dict[str, Any]:
    """The versions of the libraries and the revision of the code."""
    return {"versions": library_versions(), "revision": code_revision()}


def continued(begun: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The description of a run with `now` added to the versions that continued it, if it is new."""
    later = begun.get("continued", [])
    if now in [{key: begun.get(key) for key in now}, *later]:
        return begun
    return {**begun, "continued": [*later, now]}


def require_same(
    own: OwnFiles, what: str, begun: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Check that a description in a folder is the one of now.

    Raises:
        InputError: they differ; the message says in what.
    """
    if changed := [f"{what}.{name}" for name in differences(begun, now)]:
        raise InputError(
            f"{own.path} holds a run of another {own.run.split()[-1]}: it differs in "
            f"{', '.join(changed)}; choose another folder, or overwrite that run (overwrite=True, "
            "--overwrite) once what you have edited there is moved away"
        )
