"""What a matched frame says, in the words that a table and a verdict share."""

import math
from dataclasses import dataclass

import pandas as pd

from dictlearn.comparison.families import RATES
from dictlearn.comparison.vocabulary import formatted, with_interval
from dictlearn.metrics.bootstrap import Interval

MATCHED_CAPTION = (
    "Interpolated between dictionaries of a family, linear in the logarithm of the rate, never "
    "beyond them. ±: half of the 95 % interval over sequences; of a difference from the best, "
    "paired, and over training seeds too where there are several. \N{ALMOST EQUAL TO} best: not "
    "told apart from it when all pairs of families, at all values of both rates, are tested "
    "together at 5 % (Holm). seeds: standard deviation over training seeds."
)
_LEVEL = 0.05 / len(RATES)
"""Of the p-values of one rate, so that those of all rates hold together."""


@dataclass(frozen=True)
class Standing:
    """How a family stands in one metric at one rate."""

    metric: str
    found: Interval
    seed_sd: float
    n_seeds: int
    behind: Interval
    """Its value minus that of the best; 0 without an interval where it is the best."""
    p_holm: float

    @property
    def is_best(self) -> bool:
        """Whether no family has a better value."""
        return self.behind.value == 0 and math.isnan(self.behind.low)

    @property
    def told_apart(self) -> bool:
        """Whether the difference from the best is beyond chance, all comparisons considered."""
        return self.p_holm < _LEVEL

    def value_text(self) -> str:
        """The value and what it may vary by: over sequences, and over seeds if there are some."""
        text = with_interval(self.metric, self.found)
        if math.isnan(self.seed_sd):
            return text
        return f"{text}\n{self.n_seeds} seeds: sd {formatted(self.metric, self.seed_sd)}"

    def behind_text(self) -> str:
        """The difference from the best, or that there is none to speak of."""
        if self.is_best:
            return "best"
        text = with_interval(self.metric, self.behind)
        return text if self.told_apart else f"\N{ALMOST EQUAL TO} best\n{text}"


@dataclass(frozen=True)
class MatchedRow:
    """One family at one rate of one hook, with its standing in every metric that it has."""

    hook: str
    at: float
    family: str
    standings: dict[str, Standing]

    def texts(self, metric: str) -> tuple[str, str]:
        """The two cells of a metric; empty where there is none."""
        if metric not in self.standings:
            return "", ""
        standing = self.standings[metric]
        return standing.value_text(), standing.behind_text()


def matched_rows(frame: pd.DataFrame) -> list[MatchedRow]:
    """The rows of `matched_frame` that have a value, metrics side by side.

    Rates where fewer than two families have one are left out: there is nothing to compare.
    """
    rows: dict[tuple[str, float, str], MatchedRow] = {}
    defined = frame[frame["value"].notna()]
    for (hook, metric, at, family), line in defined.iterrows():
        row = rows.setdefault((hook, at, family), MatchedRow(hook, at, family, {}))
        row.standings[metric] = Standing(
            metric,
            Interval(line["value"], line["low"], line["high"]),
            line["seed_sd"],
            int(line["n_seeds"]),
            Interval(line["difference"], line["difference_low"], line["difference_high"]),
            line["p_holm"],
        )
    places = [(row.hook, row.at) for row in rows.values()]
    kept = [row for row in rows.values() if places.count((row.hook, row.at)) > 1]
    return sorted(kept, key=lambda row: (row.hook, row.at))
