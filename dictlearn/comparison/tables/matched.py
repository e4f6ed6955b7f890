"""The table of families at equal rates."""

import math
from itertools import groupby

from dictlearn.comparison.statistics.families import RATES
from dictlearn.comparison.statistics.intervals import can_resample
from dictlearn.comparison.statistics.matched import MATCHED, matched_frame
from dictlearn.comparison.statistics.standings import MatchedRow, Standing, matched_rows
from dictlearn.comparison.tables.description import SHORT, Cell, Column, Table
from dictlearn.comparison.vocabulary import LABELS, ROUNDING, formatted, with_interval
from dictlearn.records.results import Records

MATCHED_CAPTION = (
    "Interpolated between the dictionaries of a family, linearly in the logarithm of the rate, "
    "without extrapolation. ±: half the width of the 95 % interval over sequences; intervals of "
    "differences from the best family are paired, and include the variation over training seeds "
    "if there are several. \N{ALMOST EQUAL TO} best: the interval of the difference holds 0. Not "
    "significant: it does not, but it is one of many, and after correction for all pairs of "
    "families at all values of both rates (Holm) the difference is not significant at the 5 % "
    "level. "
    "sd: standard deviation over training seeds."
)


def matched_tables(records: Records) -> list[Table]:
    """One table per rate at which at least two families can be compared."""
    if not can_resample(records):
        return []
    found = (_table(rate, matched_rows(matched_frame(records, rate))) for rate in RATES)
    return [table for table in found if table.groups]


def _table(rate: str, rows: list[MatchedRow]) -> Table:
    several = len({row.hook for row in rows}) > 1
    columns = [Column(RATES[rate], LABELS[rate], numeric=False)]
    columns += [Column(name, name, numeric=False) for name in _names(several)]
    for metric in MATCHED:
        columns.append(Column(LABELS[metric], SHORT.get(metric, LABELS[metric])))
        columns.append(Column("difference from best", "vs best"))
    groups = groupby(rows, key=lambda row: (row.hook, row.at))
    return Table(
        f"at equal {'L0' if rate == 'l0' else 'bits per token'}",
        MATCHED_CAPTION,
        tuple(columns),
        tuple(tuple(_row(row, several) for row in group) for _, group in groups),
    ).without_empty()


def _names(several_hooks: bool) -> list[str]:
    return ["hook", "family"] if several_hooks else ["family"]


def _row(row: MatchedRow, several_hooks: bool) -> tuple[Cell, ...]:
    cells = [Cell(f"{row.at:.4g}")]
    cells += [Cell(getattr(row, name)) for name in _names(several_hooks)]
    for metric in MATCHED:
        standing = row.standings.get(metric)
        cells += [Cell(""), Cell("")] if standing is None else _cells(standing)
    return tuple(cells)


def _cells(standing: Standing) -> list[Cell]:
    p = standing.p_holm
    shown = f"<{ROUNDING:g}" if p < ROUNDING else formatted("kl", p)
    hover = f"p {shown}, Holm" if math.isfinite(p) else ""
    return [Cell(_value(standing), hover), Cell(_difference(standing), hover)]


def _value(standing: Standing) -> str:
    """The value with its interval, and its standard deviation over seeds if there are several."""
    text = with_interval(standing.metric, standing.found)
    if math.isnan(standing.seed_sd):
        return text
    return f"{text}\n{standing.n_seeds} seeds: sd {formatted(standing.metric, standing.seed_sd)}"


def _difference(standing: Standing) -> str:
    """The difference from the best family with its interval, and whether it is significant."""
    if standing.is_best:
        return "best"
    text = with_interval(standing.metric, standing.behind)
    if standing.significant:
        return text
    verdict = "\N{ALMOST EQUAL TO} best" if standing.ties else "not significant"
    return f"{verdict}\n{text}"
