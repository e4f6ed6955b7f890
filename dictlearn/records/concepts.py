"""The records of `evaluate_concepts`: detectors of concepts, of features and of other families."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.files import typed
from dictlearn.core.provenance import Provenance
from dictlearn.records.base import SavedRecords, listed, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd

CONCEPTS_FILE = "concepts.json"


class Family(StrEnum):
    """The candidates among which the best detector of a concept is chosen."""

    FEATURES = "features"
    """The features of the dictionary."""
    RANDOM = "random"
    """As many untrained features with the L0 of the dictionary."""
    NEURONS = "neurons"
    """The hidden neurons of the MLP in the layer of the target."""
    BASIS = "basis"
    """The basis directions of the target."""
    PCA = "pca"
    """The principal components of the target."""


@dataclass(frozen=True)
class ConceptScore:
    """The scores of one family's detector of one concept.

    The detector is the candidate with the best average precision on one half of the sequences,
    with the threshold that has the best F1 there. All numbers are from the other half, except the
    naive one, which is from the half that it was chosen on. `nan` where undefined.
    """

    concept: str
    dictionary: str
    """The dictionary whose features are scored, or compared with this family."""
    family: Family
    candidate: int
    """Index of the candidate in its family."""
    sign: int
    """1 if large scores indicate the concept, -1 if large negative ones do."""
    threshold: float
    """Smallest score of tokens that are predicted positive; `nan` without a match among them."""
    n_matches: int
    """Number of tokens with the concept."""
    base_rate: float
    """Fraction of tokens with the concept: the chance level of every precision here."""
    average_precision: float
    """Precision at the score of each matching token, averaged over these: needs no threshold."""
    average_precision_low: float
    average_precision_high: float
    advantage: float
    """Average precision of the feature minus this one; `nan` for the feature itself."""
    advantage_low: float
    advantage_high: float
    naive_average_precision: float
    precision: float
    """Fraction of tokens from the threshold on that have the concept."""
    precision_low: float
    precision_high: float
    recall: float
    """Fraction of tokens with the concept that are from the threshold on."""
    recall_low: float
    recall_high: float


@dataclass(frozen=True, repr=False)
class ConceptRecords(SavedRecords):
    """Detectors of several concepts among the features of dictionaries, and among baselines."""

    file: ClassVar[str] = CONCEPTS_FILE
    kind: ClassVar[str] = "concepts"
    remake: ClassVar[str] = "evaluate again"
    maker: ClassVar[str] = "evaluate_concepts"

    patterns: dict[str, str]
    """The pattern of every scored concept."""
    scores: list[ConceptScore]
    left_out: dict[str, str]
    """Concepts, and "DICTIONARY: FAMILY", without scores, each with the reason."""
    without_interval: dict[str, str]
    """Concepts whose scores have no intervals, each with the reason."""

    def best_features(self) -> dict[str, list[int]]:
        """The features that detect some concept best, by dictionary, without repetition."""
        found: dict[str, list[int]] = {}
        for score in self.scores:
            mine = found.setdefault(score.dictionary, [])
            if score.family is Family.FEATURES and score.candidate not in mine:
                mine.append(score.candidate)
        return found

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each concept, dictionary and family."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores])

    def _in_words(self) -> str:
        names = dict.fromkeys(score.dictionary for score in self.scores)
        return f"{len(self.scores)} scores of {listed(names)}"

    def _entries(self) -> dict[str, Any]:
        return {
            "patterns": self.patterns,
            "left_out": self.left_out,
            "without_interval": self.without_interval,
            "scores": [without_nan(asdict(score)) for score in self.scores],
        }

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "ConceptRecords":
        if "without_interval" not in data:  # precision was another number in earlier files
            raise ValueError(f"of an earlier version, without random features; {cls.remake}")
        patterns, left_out, without_interval = (
            typed(data[key], dict[str, str]) for key in ("patterns", "left_out", "without_interval")
        )
        scores = typed([with_nan(entry) for entry in data["scores"]], list[ConceptScore])
        scored = {(s.concept, s.dictionary) for s in scores if s.family is Family.FEATURES}
        if not scored.issuperset((s.concept, s.dictionary) for s in scores):
            raise ValueError("a concept has scores of baselines and none of the features")
        return cls(provenance, tokens, patterns, scores, left_out, without_interval)
