"""What a comparison of features leaves behind: how far dictionaries hold the same features."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictlearn.core.errors import CorruptFileError, InputError, nearest
from dictlearn.core.files import read_json
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites

if TYPE_CHECKING:
    import pandas as pd

AGREEMENT_FORMAT = 1
AGREEMENT_FILE = "agreement.json"
SIMILARITY_BINS = 40
"""Bins of equal width from -1 to 1, for cosines and correlations."""
LOWEST_DECADE = -8
"""The logarithm at which histograms of density begin; lower densities are in their first bin."""
BINS_PER_DECADE = 4


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """How far the features of `first` are among those of `second`. `nan` where undefined.

    The other direction is another pair: a small dictionary may be contained in a large one.
    """

    first: str
    second: str
    mmcs: float = math.nan
    """Mean over `first` of the largest cosine with an atom of `second`."""
    cosine_counts: list[int] = field(default_factory=list)
    """The histogram of these largest cosines, in `SIMILARITY_BINS`."""
    matched: float = math.nan
    """Mean cosine of the best one-to-one matching; the same both ways."""
    matched_share: float = math.nan
    """Share of matched pairs whose cosine is above 0.9."""
    correlation: float = math.nan
    """Mean over live features of `first` of the largest correlation with a feature of `second`."""
    correlation_median: float = math.nan
    correlation_counts: list[int] = field(default_factory=list)
    """The histogram of these largest correlations, in `SIMILARITY_BINS`."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why "mmcs", "matched" or "correlation" is undefined."""

    def value(self, measure: str) -> float:
        """The number called `measure`.

        Raises:
            InputError: there is none of this name.
        """
        if measure not in MEASURES:
            raise InputError(f"there is no measure {measure!r}; {nearest(measure, MEASURES)}")
        return float(getattr(self, measure))


MEASURES = ("mmcs", "matched", "matched_share", "correlation", "correlation_median")
"""The numbers of a pair."""


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """What the features of one dictionary are like. `nan` where undefined."""

    kind: str
    sites: Sites
    n_features: int
    n_compared: int
    """Features whose atoms are compared: all, or those that are ever active."""
    seed: int | None
    """Of the training run. Dictionaries of one seed and size may have begun at one place, and then
    agree for that reason as well."""
    neurons_per_feature: list[float]
    """Over how many basis directions of the target an atom is spread: lower quartile, median,
    upper quartile. It says something only where that basis does."""
    never_active_share: float = math.nan
    density_counts: list[int] = field(default_factory=list)
    """Features that are ever active, by the logarithm of their density."""
    ultralow_share: float = math.nan
    """Share of all features that are active, but less often than the threshold."""
    ultralow_cosine: float = math.nan
    """Mean cosine of their atoms with the mean of their directions."""
    ultralow_aligned: float = math.nan
    """Share of them for which this cosine is above 0.95."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why "density" or "ultralow" is undefined."""


@dataclass(frozen=True)
class AgreementRecords:
    """How far several dictionaries hold the same features, each pair in both directions."""

    provenance: Provenance
    """The model and the tokens, if correlations were measured."""
    tokens: dict[str, Any]
    """What `Tokens.describe` says and `exclude_special`; empty without tokens."""
    settings: dict[str, Any]
    """`live_only`, `matching_limit`, `ultralow`: the threshold density."""
    dictionaries: dict[str, FeatureSummary]
    pairs: list[PairAgreement]

    def pair(self, first: str, second: str) -> PairAgreement:
        """How far the features of `first` are among those of `second`.

        Raises:
            InputError: there is no such pair.
        """
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
        names = ", ".join(map(repr, self.dictionaries))
        raise InputError(
            f"there is no pair {first!r}, {second!r}; required two different ones of {names}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """One row for each ordered pair: its numbers, without the histograms."""
        import pandas as pd

        columns = ("first", "second", *MEASURES)
        rows = [{column: getattr(pair, column) for column in columns} for pair in self.pairs]
        return pd.DataFrame(rows, columns=list(columns))

    def features_to_pandas(self) -> "pd.DataFrame":
        """One row for each dictionary: what its features are like."""
        import pandas as pd

        quartiles = ("neurons_lower_quartile", "neurons_median", "neurons_upper_quartile")
        columns = ("kind", "n_features", "n_compared", "seed", "never_active_share",
                   "ultralow_share", "ultralow_cosine", "ultralow_aligned")  # fmt: skip
        rows = {
            name: {column: getattr(summary, column) for column in columns}
            | dict(zip(quartiles, summary.neurons_per_feature, strict=True))
            for name, summary in self.dictionaries.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary")

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html()

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write `agreement.json` to `folder`; its path.

        Raises:
            InputError: there is such a file, and it is not one that was saved there.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder)
        summaries = {
            name: asdict(summary) | {"sites": summary.sites.to_dict()}
            for name, summary in self.dictionaries.items()
        }
        data = {
            "format": AGREEMENT_FORMAT,
            "model": self.provenance.model,
            "tokens": self.tokens,
            "provenance": self.provenance.to_dict(),
            "settings": self.settings,
            "dictionaries": {name: _without_nan(entry) for name, entry in summaries.items()},
            "pairs": [_without_nan(asdict(pair)) for pair in self.pairs],
        }
        own.write_json(AGREEMENT_FILE, data)
        return own.path / AGREEMENT_FILE

    @classmethod
    def load(cls, folder: str | Path) -> "AgreementRecords":
        """The records in `folder`.

        Raises:
            CorruptFileError: the file is absent, truncated or of another format.
        """
        path = Path(folder) / AGREEMENT_FILE
        data = read_json(path)
        if data.get("format") != AGREEMENT_FORMAT:
            raise CorruptFileError(
                f"{path}: required agreement format {AGREEMENT_FORMAT}, got "
                f"{data.get('format')!r}; compare again with this version"
            )
        try:
            summaries = {
                name: FeatureSummary(
                    **_with_nan(entry)
                    | {"sites": Sites.from_dict(entry["sites"]), "seed": entry.get("seed")}
                )
                for name, entry in data["dictionaries"].items()
            }
            pairs = [PairAgreement(**_with_nan(entry)) for entry in data["pairs"]]
            origin = Provenance.from_dict(data["provenance"])
            return cls(origin, data["tokens"], data["settings"], summaries, pairs)
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{path}: an entry is missing or malformed ({error})") from error


def _without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with null where JSON has no `nan`, in its lists as well."""
    plain = {k: [_plain(v) for v in x] if isinstance(x, list) else x for k, x in entry.items()}
    return {key: _plain(value) for key, value in plain.items()}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with `nan` where JSON holds null."""
    return {
        key: [math.nan if v is None else v for v in value]
        if isinstance(value, list)
        else math.nan
        if value is None
        else value
        for key, value in entry.items()
    }
