"""Bootstrap intervals, paired differences and their p-values, from records alone.

Tokens within a sequence are dependent, so whole sequences are resampled. Every metric is a ratio
of sums over sequences (`metrics.pooled`), so a resample is a vector of weights for the sequences.
All dictionaries of a run get the same weights, which makes comparisons paired.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import variance
from typing import TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.metrics.bootstrap import CONFIDENCE, RESAMPLES, Interval, bootstrap_weights, central
from dictlearn.metrics.pooled import METRICS, PooledMetric
from dictlearn.records.results import DictionaryRecord, Records

Key = TypeVar("Key", bound=Hashable)

_RESAMPLED = {metric.name: metric for metric in METRICS if metric.resampled}


def interval(
    metric: PooledMetric,
    sums: Mapping[str, Float[Tensor, " sequence"]],
    weights: Float[Tensor, "resample sequence"],
) -> Interval:
    """The metric over all sequences, and its 95 % percentile bootstrap interval.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3. The ends are
    `nan` where the metric does not exist.
    """
    return Interval(pooled(metric, sums), *central(_resampled(metric, sums, weights)))


def difference(
    metric: PooledMetric,
    first: Mapping[str, Float[Tensor, " sequence"]],
    second: Mapping[str, Float[Tensor, " sequence"]],
    weights: Float[Tensor, "resample sequence"],
) -> Interval:
    """The metric of `first` minus that of `second`, with the interval of paired resamples."""
    value = pooled(metric, first) - pooled(metric, second)
    apart = _resampled(metric, first, weights) - _resampled(metric, second, weights)
    return Interval(value, *central(apart))


def pooled(metric: PooledMetric, sums: Mapping[str, Float[Tensor, " sequence"]]) -> float:
    """The metric over all sequences."""
    return metric({name: s.sum() for name, s in sums.items()}).item()


def _resampled(
    metric: PooledMetric,
    sums: Mapping[str, Float[Tensor, " sequence"]],
    weights: Float[Tensor, "resample sequence"],
) -> Float[Tensor, " resample"]:
    return metric({name: weights @ sums[name].double() for name in metric.sums if name in sums})


def sign_flip_p_value(
    metric: PooledMetric,
    first: Mapping[str, Float[Tensor, " sequence"]],
    second: Mapping[str, Float[Tensor, " sequence"]],
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """The two-sided p-value of a paired sign-flip test of equal metrics.

    In each resample, the two dictionaries are swapped in every sequence with probability 1/2. The
    p-value is at least `1 / (n_resamples + 1)`, and 1 for two copies of one dictionary.
    """
    n = len(next(iter(first.values())))
    generator = torch.Generator().manual_seed(seed)
    swaps = torch.randint(2, (n_resamples, n), generator=generator).double()
    first = {name: s for name, s in first.items() if name in metric.sums}
    moved = {name: swaps @ (second[name] - s).double() for name, s in first.items()}
    flipped = metric({k: first[k].sum() + m for k, m in moved.items()}) - metric(
        {k: second[k].sum() - m for k, m in moved.items()}
    )
    observed = abs(pooled(metric, first) - pooled(metric, second))
    if not math.isfinite(observed):
        return math.nan
    # Sums in another order round differently; equality up to rounding counts as equality.
    extreme = (flipped.abs() >= observed - 1e-12 * max(observed, 1.0)).sum().item()
    return (extreme + 1) / (n_resamples + 1)


def over_seeds(
    paired: Interval, first: Sequence[float], second: Sequence[float]
) -> tuple[Interval, float]:
    """Interval and two-sided p-value of a difference of two means over training seeds.

    `paired` is the difference with its bootstrap interval over sequences, for fixed seeds;
    `first` and `second` are the values for each seed. The variances over sequences and over seeds
    are added, and the degrees of freedom are those of Welch 1947, "The Generalization of
    `Student's' Problem when Several Different Population Variances are Involved", with infinitely
    many for the variance over sequences. If all variances are 0, the result is `paired`, with
    p = 1 for equal values and p = 0 otherwise.
    """
    from scipy.stats import norm, t

    tail = (1 + CONFIDENCE) / 2
    sampling = ((paired.high - paired.low) / (2 * norm.ppf(tail))) ** 2
    spreads = [(variance(values) / len(values), len(values) - 1) for values in (first, second)]
    total = sampling + sum(spread for spread, _ in spreads)
    if total == 0:
        return paired, float(paired.value == 0)
    freedom = total**2 / max(sum(spread**2 / n for spread, n in spreads), 1e-12 * total**2)
    error = math.sqrt(total)
    margin = float(t.ppf(tail, freedom)) * error
    p = 2 * float(t.sf(abs(paired.value) / error, freedom))
    return Interval(paired.value, paired.value - margin, paired.value + margin), p


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


def intervals_frame(
    records: Records, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """One row per dictionary and metric, with `value` and the ends `low`, `high` of its interval.

    Intervals are for the sampling of text; the variation over training seeds needs several runs.
    Metrics that are not a function of per-sequence sums (the dead fraction) are left out.
    """
    rows = {}
    weights = resamples(records, n_resamples, seed)
    for name, record in records.dictionaries.items():
        for metric in _RESAMPLED.values():
            rows[name, metric.name] = interval(metric, record.sums, weights)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(Interval._fields)).set_axis(
        pd.MultiIndex.from_tuples(rows, names=["dictionary", "metric"])
    )


def intervals_of(records: Records, metrics: Iterable[str]) -> dict[str, dict[str, Interval]]:
    """The 95 % interval of every dictionary, for each metric.

    Empty for metrics that are not resampled, and if there is only one sequence.
    """
    known = _RESAMPLED if can_resample(records) else {}
    weights = resamples(records) if known else torch.empty(0)
    return {
        name: {
            dictionary: interval(known[name], record.sums, weights)
            for dictionary, record in (records.dictionaries if name in known else {}).items()
        }
        for name in metrics
    }


def can_resample(records: Records) -> bool:
    """Whether any dictionary has at least two sequences."""
    return any(len(record.sums["rows"]) > 1 for record in records.dictionaries.values())


def differences_frame(
    records: Records,
    metric: str,
    reference: str,
    *,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Differences between the other dictionaries and `reference`, paired over sequences.

    Columns `value`, `low`, `high`, `p` (`sign_flip_p_value`) and `p_holm`, corrected for all rows.

    Raises:
        InputError: there is no such dictionary or metric, or dictionaries replace other tensors.
    """
    measure = resampled_metric(metric)
    base = _record(records, reference)
    weights = resamples(records, n_resamples, seed)
    others = {n: r for n, r in records.dictionaries.items() if n != reference}
    for name, record in others.items():
        if record.place != base.place:
            raise InputError(
                f"{name!r} and {reference!r} are not comparable: losses are at {record.place!r} "
                f"and {base.place!r}; split the records with by_target"
            )
    found = {n: difference(measure, r.sums, base.sums, weights) for n, r in others.items()}
    p_values = {
        n: sign_flip_p_value(measure, r.sums, base.sums, n_resamples, seed)
        for n, r in others.items()
    }
    frame = pd.DataFrame.from_dict(found, orient="index", columns=list(Interval._fields))
    frame["p"], frame["p_holm"] = pd.Series(p_values), pd.Series(holm(p_values))
    return frame.rename_axis("dictionary")


def resamples(
    records: Records, n_resamples: int = RESAMPLES, seed: int = 0
) -> Float[Tensor, "resample sequence"]:
    """Bootstrap weights for the sequences of `records` (two at least), for all dictionaries."""
    record = next(iter(records.dictionaries.values()))
    return bootstrap_weights(len(record.sums["rows"]), n_resamples, seed)


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
