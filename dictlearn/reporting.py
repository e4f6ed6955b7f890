"""A report on trained dictionaries: all records of them, and pages about these, in one folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from dictlearn.comparison.report.html import DEFAULT_TITLE, REPORT_FILE
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, NotApplicableError, nearest
from dictlearn.core.files import read_own_json
from dictlearn.core.folder_sorts import REPORT, require_apart
from dictlearn.core.folders import require_writable
from dictlearn.core.named import Dictionaries
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.files import folders_of, load
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.concepts.evaluate_concepts import evaluate_concepts
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.findings import (
    PAGE_FILE,
    RECORD_FILES,
    Findings,
    code,
    continued,
    kept,
    remade,
    require_same,
    there,
)
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.sites import require_readable
from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords
from dictlearn.records.results import Records
from dictlearn.training.initial import weights_hash
from dictlearn.training.progress import LOG_FILE

DESCRIPTION_FILE = "report.json"
"""What the records of a report are of: dictionaries, model, tokens and settings."""


class Part(StrEnum):
    """A part of a report."""

    METRICS = "metrics"
    """Reconstruction, sparsity and predictions (`evaluate`), which every report has."""
    BITS = "bits"
    """Bits per token of the coefficients as well."""
    CONCEPTS = "concepts"
    """Features as detectors of concepts (`evaluate_concepts`)."""
    AGREEMENT = "agreement"
    """Near twins, and the similarity of features, beside its chance level (`compare_features`)."""
    CARDS = "cards"
    """Cards of some features of each dictionary (`describe_features`)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Findings):
    """The records of a report, and its page."""

    path: Path
    """The page, report.html."""
    left_out: Mapping[Part, str] = field(default_factory=dict)
    """Parts asked for that dictionaries, model or tokens do not allow, each with the reason."""

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return self.metrics._repr_html_()


def report(
    dictionaries: Dictionaries | Sequence[str | Path] | str | Path,
    model: LanguageModel,
    tokens: Tokens,
    *,
    out: str | Path,
    parts: Iterable[str] = tuple(Part),
    documents: Tokens | None = None,
    n_cards: int = 6,
    title: str = DEFAULT_TITLE,
    exclude_special: bool = True,
    allow_other_model: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """All that can be measured of dictionaries, as records and as pages in the folder `out`.

    Each part is saved when it is done, so a report that was interrupted goes on where it was, and a
    later call with more parts adds these; the pages show all parts that are there. Bits are
    measured with the metrics: added later, they take the passes of the metrics again.

    A part that these dictionaries, this model or these tokens do not allow (`NotApplicableError`),
    such as cards of a model without a tokenizer, is left out, and the report has the reason.

    Args:
        dictionaries: one, several by name, or folders that hold them (`load`, `fit`), whose
            training curves are shown too.
        model: the language model that all were trained on.
        tokens: normally of the held-out split.
        out: the folder for `report.html`, `report.md` and the records.
        parts: names of `Part`; by default all.
        documents: tokens for the concepts, best in whole documents; by default `tokens`.
        n_cards: number of feature cards for each dictionary.
        title: the title of the pages.
        exclude_special: leave out special tokens (BOS, EOS, padding).
        allow_other_model: also take dictionaries of another model; the records name them.
        overwrite: remove the files of an earlier report in the folder, and no others.
        progress: show progress bars.

    Raises:
        InputError: an argument is out of range, a dictionary does not fit the model, or the folder
            holds a report of other dictionaries, tokens or settings, or conflicting files.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        StorageError: the folder cannot be written.
    """
    chosen = parts_named(parts)
    if n_cards < 1:
        raise InputError(f"required n_cards of at least 1, got {n_cards}")
    given, logs = _loaded(dictionaries, model)
    loaded = required_dictionaries("report", given)
    for some in (tokens, documents or tokens):
        require_readable(model, some)
    own = own_files(out)
    run = _Run(own, loaded, model, tokens, documents or tokens, n_cards, exclude_special,
               allow_other_model, progress)  # fmt: skip
    with own.locked():
        run.begin(chosen, overwrite=overwrite)
        left_out = run.make(chosen)
        found = Findings.of(own.path)
        about = [f"Left out, {part.value}: {reason}" for part, reason in left_out.items()]
        own.write_text(REPORT_FILE, found.html(title, logs, about=about))
        own.write_text(PAGE_FILE, found.markdown(title, about=about))
    return Report(**vars(found), path=own.path / REPORT_FILE, left_out=left_out)


def parts_named(names: Iterable[str], argument: str = "parts") -> set[Part]:
    """The parts of these names, and the metrics.

    Raises:
        InputError: there is no such part; the message names the argument.
    """
    names = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    known = [part.value for part in Part]
    for name in names:
        if name not in known:
            raise InputError(f"{argument}: there is no part {name!r}; {nearest(name, known)}")
    return {Part.METRICS, *map(Part, names)}


def own_files(out: str | Path) -> OwnFiles:
    """The files of a report in a folder, after checking that it may write there.

    Raises:
        InputError: there are files that no report wrote, or the folder is of another sort.
    """
    own = OwnFiles(Path(out), "a report")
    require_apart(own.path, REPORT)
    require_writable(own.path)
    own.require(DESCRIPTION_FILE, *RECORD_FILES, REPORT_FILE, PAGE_FILE)
    return own


@dataclass(frozen=True)
class _Run:
    """A report in the making: its dictionaries, model and tokens, and the folder for it."""

    own: OwnFiles
    dictionaries: Mapping[str, FeatureDictionary]
    model: LanguageModel
    tokens: Tokens
    documents: Tokens
    n_cards: int
    exclude_special: bool
    allow_other_model: bool
    progress: bool

    def begin(self, parts: set[Part], *, overwrite: bool) -> None:
        """Write the description of the report, or check that it fits the one that is there."""
        origin, _ = require_fitting(
            self.dictionaries, self.model, allow_other_model=self.allow_other_model
        )
        now: dict[str, Any] = {
            "dictionaries": {name: _described(d) for name, d in self.dictionaries.items()},
            "model": {
                "fingerprint": origin.fingerprint,
                "dtype": origin.dtype,
                "weight_processing": origin.weight_processing,
            },
            "tokens": self.tokens.describe() | {"exclude_special": self.exclude_special},
        }
        settings = self._settings(parts)
        if overwrite:
            self.own.clear()
        if not (self.own.path / DESCRIPTION_FILE).exists():
            self.own.write_json(DESCRIPTION_FILE, now | {"parts": settings} | code())
            return
        begun = read_own_json(self.own.path / DESCRIPTION_FILE, "report", "choose another folder")
        for what, described in now.items():
            require_same(self.own, what, begun.get(what, {}), described)
        begun["parts"] = settings | begun.get("parts", {})
        before = {name: begun["parts"][name] for name in settings}
        require_same(self.own, "parts", before, settings)
        self.own.write_json(DESCRIPTION_FILE, continued(begun, code()))

    def _settings(self, parts: set[Part]) -> dict[str, Any]:
        """The settings of parts on which no other part depends."""
        own = {
            Part.CONCEPTS: {"documents": self.documents.describe()},
            Part.CARDS: {"n_cards": self.n_cards},
        }
        return {part.value: settings for part, settings in own.items() if part in parts}

    def make(self, parts: set[Part]) -> dict[Part, str]:
        """Measure and save those parts that the folder lacks; reasons why others are left out."""
        measure = remade if Part.BITS in parts and not self._has_bits() else kept
        measure(self.own, Records, lambda: self._metrics(bits=Part.BITS in parts))
        left_out: dict[Part, str] = {}
        others: dict[Part, Callable[[], Any]] = {
            Part.CONCEPTS: lambda: kept(self.own, ConceptRecords, self._concepts),
            Part.AGREEMENT: lambda: kept(self.own, AgreementRecords, self._agreement),
            Part.CARDS: lambda: kept(self.own, FeatureRecords, self._cards),
        }
        for part, measured in others.items():
            if part in parts:
                try:
                    measured()
                except NotApplicableError as error:
                    left_out[part] = str(error)
        return left_out

    def _has_bits(self) -> bool:
        """Whether the metrics in the folder have the bits of every sequence."""
        found = there(self.own.path, Records)
        measured = [] if found is None else [r.sums for r in found.dictionaries.values()]
        return bool(measured) and all("support_bits" in sums for sums in measured)

    def _metrics(self, *, bits: bool) -> Records:
        return evaluate(*self._read(self.tokens), bits=bits, **self._options(special=True))

    def _concepts(self) -> ConceptRecords:
        return evaluate_concepts(*self._read(self.documents), **self._options())

    def _agreement(self) -> AgreementRecords:
        if not any(dictionary.n_features for dictionary in self.dictionaries.values()):
            raise NotApplicableError("it compares features, and these dictionaries have none")
        return compare_features(*self._read(self.tokens), **self._options(special=True))

    def _cards(self) -> FeatureRecords:
        """Cards of a sample of features, and of those that detect a concept best."""
        concepts = there(self.own.path, ConceptRecords)
        also = None if concepts is None else concepts.best_features()
        read = self._read(self.tokens)
        return describe_features(*read, self.n_cards, also=also, **self._options(special=True))

    def _read(self, tokens: Tokens) -> tuple[Dictionaries, LanguageModel, Tokens]:
        return self.dictionaries, self.model, tokens

    def _options(self, *, special: bool = False) -> dict[str, Any]:
        """Options of every measurement, with that on special tokens where it has one."""
        options = {"allow_other_model": self.allow_other_model, "progress": self.progress}
        return options | ({"exclude_special": self.exclude_special} if special else {})


def _described(dictionary: FeatureDictionary) -> dict[str, Any]:
    """The identity of a dictionary: equal for equal coefficients and estimates."""
    return {
        "kind": dictionary.kind,
        "config": {} if dictionary.config is None else dictionary.config.to_dict(),
        "sites": dictionary.sites.to_dict(),
        "weights_sha256": weights_hash(dictionary),
    }


def _loaded(
    given: Dictionaries | Sequence[str | Path] | str | Path, model: LanguageModel
) -> tuple[Dictionaries, dict[str, Path]]:
    """The dictionaries, on the device of the model if they are read, and their training logs."""
    if isinstance(given, FeatureDictionary | Mapping):
        return given, {}
    folders = folders_of(given)
    device = next(iter(model.parameters())).device
    return {name: load(path).to(device) for name, path in folders.items()}, _logs(folders)


def _logs(folders: Mapping[str, Path]) -> dict[str, Path]:
    """The training logs in the folders of dictionaries or beside these, by folder."""
    around = [place for folder in folders.values() for place in (folder, folder.resolve().parent)]
    found = dict.fromkeys(place for place in around if (place / LOG_FILE).exists())
    names = [place.resolve().name for place in found]
    if len(set(names)) < len(names):
        names = [str(place) for place in found]
    return {name: place / LOG_FILE for name, place in zip(names, found, strict=True)}
