"""What a search for concepts leaves behind: how precisely each was found, and by what."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.provenance import Provenance
from dictlearn.records.base import SavedRecords, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd

CONCEPTS_FILE = "concepts.json"


@dataclass(frozen=True)
class ConceptScore:
    """How well the best candidate of one family finds one concept.

    The candidate was chosen on one half of the sequences. All numbers are from the other half,
    except the naive ones, which are from the half that it was chosen on. `nan` where undefined.
    """

    concept: str
    dictionary: str
    """The dictionary whose features, or whose recall, this is about."""
    family: str
    """Of what the candidate is one: "features", "neurons", "basis" or "pca"."""
    candidate: int
    """Which one of them."""
    sign: int
    """1 if large scores mark the concept, -1 if it is large negative ones."""
    threshold: float
    """The feature's score from which on tokens are taken. `nan` for the other families, whose
    threshold follows from the feature's recall, and for features that never met the concept."""
    n_matches: int
    """Tokens of the concept."""
    recall: float
    """The feature's, at which all families are compared."""
    precision: float
    precision_low: float
    precision_high: float
    advantage: float
    """The feature's precision minus this one; `nan` for the feature itself."""
    advantage_low: float
    advantage_high: float
    naive_recall: float
    naive_precision: float
    average_precision: float
    """Of the candidate of the family with the largest one on the half chosen on."""
    f1: float
    """Of the candidate and threshold of the family with the largest one on the half chosen on."""


@dataclass(frozen=True)
class ConceptRecords(SavedRecords):
    """How precisely several dictionaries, and the model's own directions, find concepts."""

    file: ClassVar[str] = CONCEPTS_FILE
    kind: ClassVar[str] = "concepts"
    version: ClassVar[int] = 1
    remake: ClassVar[str] = "evaluate again"

    patterns: dict[str, str]
    """The pattern of every concept that is scored."""
    scores: list[ConceptScore]
    left_out: dict[str, str]
    """Concepts, and "DICTIONARY: FAMILY", that have no scores, and why."""

    def to_pandas(self) -> "pd.DataFrame":
        """One row for each concept, dictionary and family."""
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
        scores = [ConceptScore(**with_nan(entry)) for entry in data["scores"]]
        return cls(provenance, tokens, data["patterns"], scores, data["left_out"])
