"""The records of `evaluate_concepts`: precision of detectors of concepts."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.files import typed
from dictlearn.core.provenance import Provenance
from dictlearn.records.base import SavedRecords, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd

CONCEPTS_FILE = "concepts.json"


@dataclass(frozen=True)
class ConceptScore:
    """The scores of the best candidate of one family as a detector of one concept.

    The candidate was chosen on one half of the sequences. All numbers are from the other half,
    except the naive ones, which are from the half that it was chosen on. `nan` where undefined.
    """

    concept: str
    dictionary: str
    """The dictionary whose features are scored, or whose recall a baseline is matched to."""
    family: str
    """The candidate's family: "features", "neurons", "basis" or "pca"."""
    candidate: int
    """Index of the candidate in its family."""
    sign: int
    """1 if large scores indicate the concept, -1 if large negative ones do."""
    threshold: float
    """Smallest score of tokens that are predicted positive. `nan` for baselines, whose threshold
    follows from the feature's recall, and for features without a true positive."""
    n_matches: int
    """Number of tokens with the concept."""
    recall: float
    """Recall of the feature, at which all families are compared."""
    precision: float
    precision_low: float
    precision_high: float
    advantage: float
    """Precision of the feature minus this precision; `nan` for the feature itself."""
    advantage_low: float
    advantage_high: float
    naive_recall: float
    naive_precision: float
    average_precision: float
    """Average precision of the family's best candidate by average precision."""
    f1: float
    """F1 of the family's best candidate and threshold by F1."""


@dataclass(frozen=True)
class ConceptRecords(SavedRecords):
    """Precision of the features of several dictionaries, and of baselines, for several concepts."""

    file: ClassVar[str] = CONCEPTS_FILE
    kind: ClassVar[str] = "concepts"
    remake: ClassVar[str] = "evaluate again"

    patterns: dict[str, str]
    """The pattern of every scored concept."""
    scores: list[ConceptScore]
    left_out: dict[str, str]
    """Concepts, and "DICTIONARY: FAMILY", without scores, each with the reason."""

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each concept, dictionary and family."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores])

    def _entries(self) -> dict[str, Any]:
        return {
            "patterns": self.patterns,
            "left_out": self.left_out,
            "scores": [without_nan(asdict(score)) for score in self.scores],
        }

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "ConceptRecords":
        patterns, left_out = (typed(data[key], dict[str, str]) for key in ("patterns", "left_out"))
        scores = typed([with_nan(entry) for entry in data["scores"]], list[ConceptScore])
        scored = {(s.concept, s.dictionary) for s in scores if s.family == "features"}
        if not scored.issuperset((s.concept, s.dictionary) for s in scores):
            raise ValueError("a concept has scores of baselines and none of the features")
        return cls(provenance, tokens, patterns, scores, left_out)
