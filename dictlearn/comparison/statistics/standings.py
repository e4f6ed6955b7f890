"""Families at equal rates, each compared with the best."""

import math
from dataclasses import dataclass

import pandas as pd

from dictlearn.comparison.statistics.families import RATES
from dictlearn.metrics.intervals import CONFIDENCE, Interval

LEVEL = (1 - CONFIDENCE) / len(RATES)
"""Significance level for the p-values of one rate, so that 5 % hold for all rates together."""


@dataclass(frozen=True)
class Standing:
    """The value of one metric for a family at one rate, and its difference from the best."""

    metric: str
    found: Interval
    seed_sd: float
    n_seeds: int
    behind: Interval
    """The value minus that of the best family; 0 without an interval for the best itself."""
    p: float
    p_holm: float

    @property
    def is_best(self) -> bool:
        """Whether no family has a better value."""
        return self.behind.value == 0 and math.isnan(self.behind.low)

    @property
    def significant(self) -> bool:
        """Whether the difference from the best is significant, corrected for all comparisons."""
        return self.p_holm < LEVEL

    @property
    def ties(self) -> bool:
        """Whether the difference from the best may be 0: the interval holds it.

        Between the two are differences that only the correction for all comparisons makes
        insignificant, and those without an interval.
        """
        return self.p >= 1 - CONFIDENCE


@dataclass(frozen=True)
class MatchedRow:
    """One family at one rate of one hook, with its standing in every metric that it has."""

    hook: str
    at: float
    family: str
    standings: dict[str, Standing]


def matched_rows(frame: pd.DataFrame) -> list[MatchedRow]:
    """The rows of `matched_frame` that have a value, with all metrics of a family in one row.

    Rates for which fewer than two families have a value are left out.
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
            line["p"],
            line["p_holm"],
        )
    places = [(row.hook, row.at) for row in rows.values()]
    kept = [row for row in rows.values() if places.count((row.hook, row.at)) > 1]
    return sorted(kept, key=lambda row: (row.hook, row.at))
