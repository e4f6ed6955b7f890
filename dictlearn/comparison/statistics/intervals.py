"""Intervals, paired differences and their p-values, from records alone.

Every metric is a ratio of sums over sequences (`metrics.pooled`), so leaving a sequence out is a
subtraction. All dictionaries of a run lose the same one, which makes comparisons paired.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import variance
from typing import TypeVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.intervals import Interval, jackknife_interval, student_quantile
from dictlearn.metrics.pooled import PooledMetric
from dictlearn.records.results import DictionaryRecord, Records

Key = TypeVar("Key", bound=Hashable)

_ROUNDING = 1e-12
"""Differences up to this one are those of sums in another order."""
_RESAMPLED = {m.name: m for m in REPORTED if isinstance(m, PooledMetric) and m.resampled}


def interval(metric: PooledMetric, sums: Mapping[str, Float[Tensor, " sequence"]]) -> Interval:
    """The metric over all sequences, and its 95 % interval; `nan` where there is none.

    Sums of which earlier versions did not write all have no value.
    """
    if not metric.sums <= sums.keys():
        return Interval(math.nan, math.nan, math.nan)
    return jackknife_interval(pooled(metric, sums), left_out(metric, sums))


def difference(
    metric: PooledMetric,
    first: Mapping[str, Float[Tensor, " sequence"]],
    second: Mapping[str, Float[Tensor, " sequence"]],
) -> Interval:
    """The metric of `first` minus that of `second`, with its interval, paired over sequences."""
    value = pooled(metric, first) - pooled(metric, second)
    return jackknife_interval(value, left_out(metric, first) - left_out(metric, second))


def pooled(metric: PooledMetric, sums: Mapping[str, Float[Tensor, " sequence"]]) -> float:
    """The metric over all sequences."""
    return metric({name: s.sum() for name, s in sums.items()}).item()


def left_out(
    metric: PooledMetric, sums: Mapping[str, Float[Tensor, " sequence"]]
) -> Float[Tensor, " sequence"]:
    """The metric without each of the sequences."""
    known = {name: sums[name].double() for name in metric.sums if name in sums}
    return metric({name: s.sum() - s for name, s in known.items()})


def p_value(found: Interval, freedom: float | int) -> float:
    """The two-sided p-value of the hypothesis that a value with this 95 % interval is 0 in truth.

    By Student's distribution with the degrees of freedom that the interval was made with, so that
    p is below 0.05 exactly where the interval leaves out 0. Without any variation it is 1 for a
    value of 0, up to rounding, and 0 otherwise; it is `nan` without an interval.

    >>> [round(p_value(Interval(x, x - 3.182, x + 3.182), 3), 3) for x in (0.0, 3.182)]
    [1.0, 0.05]
    """
    from scipy.special import stdtr

    half = (found.high - found.low) / 2
    if not math.isfinite(half):
        return math.nan
    if abs(found.value) <= _ROUNDING:
        return 1.0
    if half == 0:
        return 0.0
    errors = abs(found.value) / half * student_quantile(freedom)
    return 2 * float(stdtr(freedom, -errors))


def over_seeds(
    paired: Interval, n_sequences: int, first: Sequence[float], second: Sequence[float]
) -> tuple[Interval, float]:
    """Interval and two-sided p-value of a difference of two means over training seeds.

    `paired` is the difference with its interval over `n_sequences` sequences, for fixed seeds;
    `first` and `second` are the values for each seed. The variances over sequences and over seeds
    are added, and the degrees of freedom are those of Welch 1947, "The Generalization of
    `Student's' Problem when Several Different Population Variances are Involved", which are too few
    for two seeds with hardly any variation over sequences: 97.6 % coverage. If all variances are 0,
    the result is `paired`, with p = 1 for equal values and p = 0 otherwise.
    """
    if n_sequences < 2:
        return paired, math.nan
    sampling = ((paired.high - paired.low) / (2 * student_quantile(n_sequences - 1))) ** 2
    spreads = [(variance(values) / len(values), len(values) - 1) for values in (first, second)]
    spreads.append((sampling, n_sequences - 1))
    total = sum(spread for spread, _ in spreads)
    if total == 0:
        return paired, p_value(paired, n_sequences - 1)
    freedom = total**2 / max(sum(spread**2 / n for spread, n in spreads), 1e-12 * total**2)
    margin = student_quantile(freedom) * math.sqrt(total)
    apart = Interval(paired.value, paired.value - margin, paired.value + margin)
    return apart, p_value(apart, freedom)


def holm(p_values: Mapping[Key, float], n_comparisons: int | None = None) -> dict[Key, float]:
    """The p-values corrected for multiple comparisons.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure". Undefined p-values stay
    undefined and are not counted. If the comparisons were selected from `n_comparisons` by their
    results, the others are treated as if they had smaller p-values.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    defined = sorted((name for name, p in p_values.items() if p == p), key=p_values.__getitem__)
    n = len(defined) if n_comparisons is None else n_comparisons
    adjusted, largest = dict(p_values), 0.0
    for i, name in enumerate(defined):
        largest = max(largest, min(1.0, (n - i) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def intervals_frame(records: Records) -> pd.DataFrame:
    """One row per dictionary and metric, with `value` and the ends `low`, `high` of its interval.

    Intervals are for the sampling of text; the variation over training seeds needs several runs.
    Metrics that are not a function of per-sequence sums (the dead fraction) are left out.
    """
    rows = {}
    for name, record in records.dictionaries.items():
        for metric in _RESAMPLED.values():
            rows[name, metric.name] = interval(metric, record.sums)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(Interval._fields)).set_axis(
        pd.MultiIndex.from_tuples(rows, names=["dictionary", "metric"])
    )


def intervals_of(records: Records, metrics: Iterable[str]) -> dict[str, dict[str, Interval]]:
    """The 95 % interval of every dictionary, for each metric.

    Empty for metrics that are not resampled, and if there is only one sequence.
    """
    known = _RESAMPLED if can_resample(records) else {}
    return {
        name: {
            dictionary: interval(known[name], record.sums)
            for dictionary, record in (records.dictionaries if name in known else {}).items()
        }
        for name in metrics
    }


def can_resample(records: Records) -> bool:
    """Whether any dictionary has at least two sequences."""
    return any(len(record.sums["rows"]) > 1 for record in records.dictionaries.values())


def differences_frame(records: Records, metric: str, reference: str) -> pd.DataFrame:
    """Differences between the other dictionaries and `reference`, paired over sequences.

    Columns `value`, `low`, `high`, `p` (`p_value`) and `p_holm`, corrected for all rows.

    Raises:
        InputError: there is no such dictionary or metric, or dictionaries replace other tensors.
    """
    measure = resampled_metric(metric)
    base = _record(records, reference)
    others = {n: r for n, r in records.dictionaries.items() if n != reference}
    for name, record in others.items():
        if record.place != base.place:
            raise InputError(
                f"{name!r} and {reference!r} are not comparable: losses are at {record.place!r} "
                f"and {base.place!r}; split the records with by_target"
            )
    found = {n: difference(measure, r.sums, base.sums) for n, r in others.items()}
    p_values = {n: p_value(apart, len(base.sums["rows"]) - 1) for n, apart in found.items()}
    frame = pd.DataFrame.from_dict(found, orient="index", columns=list(Interval._fields))
    frame["p"], frame["p_holm"] = pd.Series(p_values), pd.Series(holm(p_values))
    return frame.rename_axis("dictionary")


def resampled_metric(name: str) -> PooledMetric:
    """The metric with this name; an `InputError` if it is no function of per-sequence sums."""
    if name not in _RESAMPLED:
        raise InputError(f"required a metric that sequences are resampled for, got {name!r}; "
                         f"{nearest(name, _RESAMPLED)}")  # fmt: skip
    return _RESAMPLED[name]


def _record(records: Records, name: str) -> DictionaryRecord:
    if name not in records.dictionaries:
        raise InputError(f"no dictionary {name!r} in these records; "
                         f"{nearest(name, records.dictionaries)}")  # fmt: skip
    return records.dictionaries[name]
