"""The choice of a learning rate for each kind, by results on validation tokens."""

import math
from dataclasses import replace
from statistics import fmean

import pandas as pd

from dictlearn.comparison.statistics.families import families
from dictlearn.comparison.statistics.intervals import pooled, resampled_metric
from dictlearn.comparison.statistics.matched import Family, shared_values
from dictlearn.comparison.vocabulary import by_target
from dictlearn.core.errors import InputError
from dictlearn.records.results import DictionaryRecord, Records

_FVU = "fraction_variance_unexplained"


def rates_frame(validation: Records) -> pd.DataFrame:
    """The error of each kind at each learning rate, and which rate is chosen.

    One row for each hook, kind and learning rate. `fvu` is the geometric mean of the fraction of
    variance unexplained, interpolated to several values of L0 (`matched_frame` says how), which
    `l0` lists: round numbers that the most rates reach. It is `nan` for a rate that does not reach
    all of them. `chosen` marks the rate with the lowest.

    Raises:
        InputError: no dictionary of a kind has active features, at any rate.
    """
    rows = {}
    for hook, group in by_target(validation).items():
        for kind in dict.fromkeys(record.kind for record in group.dictionaries.values()):
            rates = _by_rate(group, kind)
            values = shared_values(rates.values(), at_least=1)
            if not values:
                raise InputError(
                    f"the search found no {kind} at {hook} with features active at two values of "
                    "L0: give other learning rates or other dictionaries"
                )
            errors = {rate: _error(family, values) for rate, family in rates.items()}
            best = min((e, rate) for rate, e in errors.items() if math.isfinite(e))[1]
            listed = ", ".join(f"{value:g}" for value in values)
            for rate, error in sorted(errors.items()):
                row = {"fvu": error, "l0": listed, "chosen": rate == best}
                rows[hook, kind, rate] = row
    index = pd.MultiIndex.from_tuples(rows, names=["hook", "kind", "learning_rate"])
    return pd.DataFrame(list(rows.values()), index=index)


def chosen_rates(validation: Records) -> dict[tuple[str, str], float]:
    """The learning rate with the lowest error of each kind at each hook (`rates_frame`)."""
    frame = rates_frame(validation)
    return {(hook, kind): rate for hook, kind, rate in frame.index[frame["chosen"]]}


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


def _error(family: Family, values: list[float]) -> float:
    """The geometric mean of FVU at these values of L0; `nan` if the family lacks one of them."""
    if any(family.missing(value) for value in values):
        return math.nan
    metric = resampled_metric(_FVU)
    found = [pooled(metric, sums) for value in values for sums in family.at(value)]
    return math.exp(fmean(math.log(max(error, 1e-30)) for error in found))
