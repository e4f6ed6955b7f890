"""The choice of a learning rate for each kind, by results on validation tokens."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean

import pandas as pd

from dictlearn.comparison.statistics.families import families
from dictlearn.comparison.statistics.interpolation import Family, values_by_sharers
from dictlearn.comparison.statistics.intervals import pooled, resampled_metric
from dictlearn.comparison.vocabulary import by_target
from dictlearn.core.errors import InputError
from dictlearn.records.results import DictionaryRecord, Records

_FVU = "fraction_variance_unexplained"


def rates_frame(validation: Records) -> pd.DataFrame:
    """The error of each kind at each learning rate, and which rate is chosen.

    Rates are compared at values of L0 that they share: all at the same ones if there are any, else
    in several sets, each of them at the round numbers that all its rates reach
    (`values_by_sharers`). There is a row for each hook, kind, set and learning rate tried, where
    `l0` lists the values of the set. `fvu` is the geometric mean over these of the fraction of
    variance unexplained, interpolated (`matched_frame` says how); `nan` for a rate outside the set.

    `chosen` marks one rate in all its sets: the one with the lowest error if there is one set. If
    there are several, it is the rate whose error exceeds the lowest of a set by the smallest
    factor, in the set where this factor is largest. Of equals, it is the one with most comparisons
    (other rates times values, over its sets), then the lowest. A rate that shares no value with
    another is chosen only if no two rates share one.

    Raises:
        InputError: no rate of a kind has two values of L0 with a round number between them.
    """
    rows = {}
    for hook, group in by_target(validation).items():
        for kind in dict.fromkeys(record.kind for record in group.dictionaries.values()):
            rates = _by_rate(group, kind)
            sets = _compared(rates)
            if not sets:
                raise InputError(
                    f"the search found no {kind} at {hook} with features active at two values of "
                    "L0 and a round one (1, 2 or 5 times a power of ten) between them: give other "
                    "learning rates or other dictionaries"
                )
            best = _best(sets)
            for values, errors in sets.items():
                listed = ", ".join(f"{value:g}" for value in values)
                for rate in sorted(rates):
                    error = errors.get(rate, math.nan)
                    chosen = rate == best and rate in errors
                    rows[hook, kind, listed, rate] = {"fvu": error, "chosen": chosen}
    index = pd.MultiIndex.from_tuples(rows, names=["hook", "kind", "l0", "learning_rate"])
    return pd.DataFrame(list(rows.values()), index=index)


def chosen_rates(validation: Records) -> dict[tuple[str, str], float]:
    """The learning rate of each kind at each hook that `rates_frame` chooses."""
    frame = rates_frame(validation)
    return {(hook, kind): rate for hook, kind, _, rate in frame.index[frame["chosen"]]}


def learning_rate(record: DictionaryRecord) -> float | None:
    """The peak learning rate that a dictionary was trained with; None if unknown, or the default
    of its kind."""
    rate = record.provenance.training.get("fit_config", {}).get("learning_rate")
    return rate if isinstance(rate, int | float) else None


def _by_rate(records: Records, kind: str) -> dict[float, Family]:
    """The dictionaries of one kind at one hook, as a family for each learning rate."""
    groups: dict[float, dict[str, DictionaryRecord]] = {}
    for name, record in records.dictionaries.items():
        rate = learning_rate(record)
        if record.kind == kind and rate is not None:
            groups.setdefault(rate, {})[name] = record
    found = {}
    for rate, members in groups.items():
        alone = replace(records, dictionaries=members)
        for curves in families(alone, "l0").values():  # one, or none if all features are dead
            found[rate] = Family.of(alone, curves, "l0")
    return found


def _compared(rates: Mapping[float, Family]) -> dict[tuple[float, ...], dict[float, float]]:
    """The errors of each set of rates that is compared, by the values of L0 that it shares.

    Sets of one rate, which compare nothing, only if there are no others.
    """
    found = {}
    for members, values in values_by_sharers(rates).items():
        errors = {rate: _error(rates[rate], values) for rate in members}
        found[tuple(values)] = {rate: e for rate, e in errors.items() if math.isfinite(e)}
    most = max(map(len, found.values()), default=0)
    return {values: errors for values, errors in found.items() if len(errors) >= min(most, 2) > 0}


def _best(sets: Mapping[tuple[float, ...], Mapping[float, float]]) -> float:
    """The rate whose error is closest to the lowest of each set, where it is furthest from it."""
    furthest: dict[float, float] = {}
    comparisons: Counter[float] = Counter()
    for values, errors in sets.items():
        lowest = min(errors.values())
        for rate, error in errors.items():
            furthest[rate] = max(furthest.get(rate, 1), error / lowest)
            comparisons[rate] += len(values) * (len(errors) - 1)
    return min(furthest, key=lambda rate: (furthest[rate], -comparisons[rate], rate))


def _error(family: Family, values: Iterable[float]) -> float:
    """The geometric mean of FVU at these values of L0."""
    metric = resampled_metric(_FVU)
    found = [pooled(metric, sums) for value in values for sums in family.at(value)]
    return math.exp(fmean(math.log(max(error, 1e-30)) for error in found))
