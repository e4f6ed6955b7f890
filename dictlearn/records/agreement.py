"""The records of `compare_features`: agreement between the features of dictionaries."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.files import typed
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.records.base import FORMER_BASELINES, SavedRecords, listed, with_nan, without_nan

if TYPE_CHECKING:
    import pandas as pd

AGREEMENT_FILE = "agreement.json"
ROWS, GAUSSIAN = "rows of data", "random directions"
"""Kinds of the controls: directions that nobody learned, to which similarities are compared."""
SIMILARITY_BINS = 40
"""Number of bins of equal width from -1 to 1, for cosines and correlations."""
LOWEST_DECADE = -8
"""The log10 density at which histograms begin; lower densities are in the first bin."""
BINS_PER_DECADE = 4


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Agreement of the features of `first` with those of `second`. `nan` where undefined.

    The other direction is a pair of its own: a small dictionary may be contained in a large one.
    """

    first: str
    second: str
    mmcs: float = math.nan
    """Mean over the atoms of `first` of the largest cosine with an atom of `second`."""
    cosine_counts: list[int] = field(default_factory=list)
    """Histogram of these largest cosines, in `SIMILARITY_BINS` bins."""
    matched: float = math.nan
    """Mean cosine of the best one-to-one matching; the same in both directions."""
    matched_share: float = math.nan
    """Fraction of matched pairs with a cosine above 0.9."""
    correlation: float = math.nan
    """Mean over live features of `first` of the largest correlation with a feature of `second`."""
    correlation_median: float = math.nan
    correlation_counts: list[int] = field(default_factory=list)
    """Histogram of these largest correlations, in `SIMILARITY_BINS` bins."""
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    """By kind of control, the measures of the features of `first` with as many such directions as
    `second` has features; those that are undefined are left out."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Reasons why "mmcs", "matched" or "correlation" is undefined."""

    def value(self, measure: str) -> float:
        """The value of `measure`, one of `MEASURES`; an `InputError` for another name."""
        if measure not in MEASURES:
            raise InputError(f"there is no measure {measure!r}; {nearest(measure, MEASURES)}")
        return float(getattr(self, measure))


MEASURES = ("mmcs", "matched", "matched_share", "correlation", "correlation_median")
"""The measures of a pair."""


@dataclass(frozen=True, kw_only=True)
class FeatureSummary:
    """Statistics of the features of one dictionary. `nan` where undefined."""

    kind: str
    sites: Sites
    n_features: int
    n_compared: int
    """Number of features whose atoms are compared: all, or those that are ever active."""
    seed: int | None
    """The seed of the training run. Dictionaries with equal seed and size may have had the same
    initial directions, and agree for that reason as well."""
    neurons_per_feature: list[float]
    """Quartiles, over atoms, of the effective number of basis directions of the target that an
    atom is spread over. Meaningful only where that basis is."""
    twin_share: float = math.nan
    """Fraction of the atoms compared that have another one with a cosine above 0.9."""
    never_active_share: float = math.nan
    density_counts: list[int] = field(default_factory=list)
    """Histogram of the log10 density of the features that are ever active."""
    ultralow_share: float = math.nan
    """Fraction of all features that are active, but with a density below the threshold."""
    ultralow_cosine: float = math.nan
    """Mean cosine of the atoms of these features with the mean of their directions."""
    ultralow_aligned: float = math.nan
    """Fraction of these features for which that cosine is above 0.95."""
    baseline: bool = False
    """Whether its kind is a baseline."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Reasons why "density" or "ultralow" is undefined."""


@dataclass(frozen=True)
class _Settings:
    live_only: bool = False
    matching_limit: int = 0
    ultralow: float = 0.0


@dataclass(frozen=True, repr=False)
class AgreementRecords(SavedRecords):
    """Agreement between the features of several dictionaries, each pair in both directions."""

    file: ClassVar[str] = AGREEMENT_FILE
    kind: ClassVar[str] = "agreement"
    remake: ClassVar[str] = "compare again"
    maker: ClassVar[str] = "compare_features"

    settings: dict[str, Any]
    """`live_only`, `matching_limit`, `ultralow`: the threshold density."""
    dictionaries: dict[str, FeatureSummary]
    pairs: list[PairAgreement]

    def pair(self, first: str, second: str) -> PairAgreement:
        """The agreement of the features of `first` with those of `second`.

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

    def level(self, first: str, second: str, measure: str, control: str = GAUSSIAN) -> float:
        """The similarity of the features of `first` with as many directions as `second` has.

        The maximum over more features is larger, so a level holds for the width of `second` only.
        It is stored with the pair, or else is that of a dictionary of the kind `control` with the
        width and target of `second`. `nan` if neither was measured.

        Raises:
            InputError: there is no such pair.
        """
        stored = self.pair(first, second).controls.get(control, {})
        if measure in stored:
            return stored[measure]
        like = self.dictionaries[second]
        alike = (
            name
            for name, other in self.dictionaries.items()
            if other.kind == control
            and name != first
            and (other.n_features, other.sites.target) == (like.n_features, like.sites.target)
        )
        values = (self.pair(first, name).value(measure) for name in alike)
        return next(filter(math.isfinite, values), math.nan)

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each ordered pair, without the histograms.

        The last columns are the measures with controls of the width of `second` (`level`).
        """
        import pandas as pd

        columns = ("first", "second", *MEASURES)
        levels = {
            f"{measure}_{control.replace(' ', '_')}": (measure, control)
            for control in (GAUSSIAN, ROWS)
            for measure in MEASURES
        }
        rows = [
            {column: getattr(pair, column) for column in columns}
            | {name: self.level(pair.first, pair.second, *of) for name, of in levels.items()}
            for pair in self.pairs
        ]
        return pd.DataFrame(rows, columns=[*columns, *levels])

    def features_to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each dictionary: the statistics of its features."""
        import pandas as pd

        quartiles = ("neurons_lower_quartile", "neurons_median", "neurons_upper_quartile")
        columns = ("kind", "n_features", "n_compared", "seed", "twin_share", "never_active_share",
                   "ultralow_share", "ultralow_cosine", "ultralow_aligned")  # fmt: skip
        rows = {
            name: {column: getattr(summary, column) for column in columns}
            | dict(zip(quartiles, summary.neurons_per_feature, strict=True))
            for name, summary in self.dictionaries.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary")

    def _in_words(self) -> str:
        return f"{len(self.pairs)} pairs of {listed(self.dictionaries)}"

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
            name: typed(
                {"baseline": entry["kind"] in FORMER_BASELINES}
                | with_nan(entry)
                | {"sites": asdict(Sites.from_dict(entry["sites"])), "seed": entry.get("seed")},
                FeatureSummary,
            )
            for name, entry in data["dictionaries"].items()
        }
        pairs = typed([with_nan(entry) for entry in data["pairs"]], list[PairAgreement])
        typed(data["settings"], _Settings)
        return cls(provenance, tokens, data["settings"], summaries, pairs)
