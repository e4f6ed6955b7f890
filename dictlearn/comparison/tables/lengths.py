"""The tables of a search for learning rates: what was tried, and what longer training changes."""

import math

import pandas as pd

from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.comparison.tables.description import Cell, Column, Table
from dictlearn.comparison.vocabulary import MISSING, formatted, with_interval
from dictlearn.metrics.intervals import Interval

_FVU = "fraction_variance_unexplained"
RATES_CAPTION = (
    "FVU on validation tokens, a part of the training text that no dictionary is trained on: the "
    "geometric mean over the values of L0 given, to which the dictionaries of a kind are "
    "interpolated. Where no L0 is reached by all rates, there is a row for each set of rates that "
    "share one, and the rate is chosen whose error exceeds the lowest of a row by the smallest "
    "factor, in the row where this factor is largest. The chosen rate is used for all dictionaries "
    f"of the kind. At longer lengths only that rate and its neighbours are tried. {MISSING}: a "
    "rate whose dictionaries do not reach these values of L0."
)
ERRORS_CAPTION = (
    "FVU on evaluation tokens after each length of training, at the rates chosen for it, ± half "
    "the width of the 95 % interval over sequences. The shorter lengths have one training seed."
)


def lengths_tables(lengths: Lengths) -> list[Table]:
    """The learning rates tried, and the error of each family after each length."""
    return [_rates(lengths.rates), _errors(lengths.errors)]


def _rates(frame: pd.DataFrame) -> Table:
    rates = sorted(set(frame.index.get_level_values("learning_rate")))
    several = frame.index.get_level_values("hook").nunique() > 1
    columns = _named(several, "kind", "steps", "L0")
    columns += [Column(f"rate {rate:g}", f"{rate:g}") for rate in rates]
    groups = []
    for (hook, kind), group in frame.groupby(["hook", "kind"], sort=False):
        rows = []
        for (steps, l0), tried in group.groupby(["steps", "l0"], sort=False):
            found = tried.droplevel(["steps", "hook", "kind", "l0"])
            texts = [hook] * several + [kind, f"{steps:,}", l0]
            rows.append((*map(Cell, texts), *(_tried(found, rate) for rate in rates)))
        groups.append(tuple(rows))
    return Table("learning rates", RATES_CAPTION, tuple(columns), tuple(groups))


def _named(several_hooks: bool, *names: str) -> list[Column]:
    """Columns of text, after one of hooks if there are several."""
    return [Column(name, name, numeric=False) for name in ["hook"] * several_hooks + [*names]]


def _tried(found: pd.DataFrame, rate: float) -> Cell:
    if rate not in found.index:
        return Cell("")
    text = formatted(_FVU, found.loc[rate, "fvu"])
    return Cell(text + " (chosen)" * bool(found.loc[rate, "chosen"]))


def _errors(frame: pd.DataFrame) -> Table:
    steps = sorted(set(frame.index.get_level_values("steps")))
    several = frame.index.get_level_values("hook").nunique() > 1
    columns = _named(several, "L0", "family")
    columns += [Column(f"{n:,} steps", f"{n:,}") for n in steps]
    groups = []
    for (hook, at), group in frame.groupby(["hook", "at"], sort=False):
        rows = []
        for family, of_family in group.groupby("family", sort=False):
            ends = {
                n: Interval(row["value"], row["low"], row["high"])
                for (n, *_), row in of_family.iterrows()
                if math.isfinite(row["value"])
            }
            if len(ends) > 1:  # baselines are not trained for longer
                texts = [hook] * several + [f"{at:g}", family]
                texts += [with_interval(_FVU, ends[n]) if n in ends else "" for n in steps]
                rows.append(tuple(map(Cell, texts)))
        groups.append(tuple(rows))
    return Table("training length", ERRORS_CAPTION, tuple(columns), tuple(filter(None, groups)))
