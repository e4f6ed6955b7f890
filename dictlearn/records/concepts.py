"""What a search for concepts leaves behind: how precisely each was found, and by what."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import read_json
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd

CONCEPTS_FORMAT = 1
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
class ConceptRecords:
    """How precisely several dictionaries, and the model's own directions, find concepts."""

    provenance: Provenance
    """The model and the tokens."""
    tokens: dict[str, Any]
    """What `Tokens.describe` says, and `seed` and `n_scored_sequences` of the halves."""
    patterns: dict[str, str]
    """The pattern of every concept that is scored."""
    scores: list[ConceptScore]
    left_out: dict[str, str]
    """Concepts, and "DICTIONARY: FAMILY", that have no scores, and why."""

    def to_pandas(self) -> "pd.DataFrame":
        """One row for each concept, dictionary and family."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores])

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html()

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write `concepts.json` to `folder`; its path.

        Raises:
            InputError: there is such a file, and it is not one that was saved there.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder)
        entries = [asdict(score) for score in self.scores]
        data = {
            "format": CONCEPTS_FORMAT,
            "model": self.provenance.model,
            "tokens": self.tokens,
            "provenance": self.provenance.to_dict(),
            "patterns": self.patterns,
            "left_out": self.left_out,
            "scores": [{k: None if v != v else v for k, v in e.items()} for e in entries],
        }
        own.write_json(CONCEPTS_FILE, data)
        return own.path / CONCEPTS_FILE

    @classmethod
    def load(cls, folder: str | Path) -> "ConceptRecords":
        """The records in `folder`.

        Raises:
            CorruptFileError: the file is absent, truncated or of another format.
        """
        path = Path(folder) / CONCEPTS_FILE
        data = read_json(path)
        if data.get("format") != CONCEPTS_FORMAT:
            raise CorruptFileError(
                f"{path}: required concepts format {CONCEPTS_FORMAT}, got {data.get('format')!r}; "
                "evaluate again with this version"
            )
        try:
            return cls(
                Provenance.from_dict(data["provenance"]),
                data["tokens"],
                data["patterns"],
                [_score_from_json(entry) for entry in data["scores"]],
                data["left_out"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{path}: an entry is missing or malformed ({error})") from error


def _score_from_json(entry: dict[str, Any]) -> ConceptScore:
    """The score with `nan` where JSON, which has none, holds null."""
    fields: dict[str, Any] = {k: math.nan if v is None else v for k, v in entry.items()}
    return ConceptScore(**fields)
