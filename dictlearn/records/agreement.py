"""What a comparison of features leaves behind: how far dictionaries hold the same features."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.records.base import SavedRecords, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd

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
class AgreementRecords(SavedRecords):
    """How far several dictionaries hold the same features, each pair in both directions."""

    file: ClassVar[str] = AGREEMENT_FILE
    kind: ClassVar[str] = "agreement"
    version: ClassVar[int] = 1
    remake: ClassVar[str] = "compare again"

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

    def _entries(self) -> dict[str, Any]:
        summaries = {
            name: asdict(summary) | {"sites": summary.sites.to_dict()}
            for name, summary in self.dictionaries.items()
        }
        return {
            "settings": self.settings,
            "dictionaries": {name: without_nan(entry) for name, entry in summaries.items()},
            "pairs": [without_nan(asdict(pair)) for pair in self.pairs],
        }

    @classmethod
    def _from_entries(
        cls, provenance: Provenance, tokens: dict[str, Any], data: dict[str, Any], folder: Path
    ) -> "AgreementRecords":
        summaries = {
            name: FeatureSummary(
                **with_nan(entry)
                | {"sites": Sites.from_dict(entry["sites"]), "seed": entry.get("seed")}
            )
            for name, entry in data["dictionaries"].items()
        }
        pairs = [PairAgreement(**with_nan(entry)) for entry in data["pairs"]]
        return cls(provenance, tokens, data["settings"], summaries, pairs)
