"""Comparison of families of dictionaries at equal rates, L0 or bits per token."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.comparison.statistics.families import Curve, at_rate, families, require_rate
from dictlearn.comparison.statistics.intervals import (
    difference,
    holm,
    interval,
    left_out,
    over_seeds,
    p_value,
    pooled,
    resampled_metric,
)
from dictlearn.comparison.vocabulary import by_target, value_of
from dictlearn.metrics.intervals import Interval
from dictlearn.metrics.pooled import PooledMetric
from dictlearn.records.results import Records

MATCHED = ("loss_recovered_zero", "fraction_variance_unexplained")
"""Metrics compared by default."""
INDEX = ["hook", "metric", "at", "family"]
PAIRS = ["hook", "at", "first", "second"]
COLUMNS = ["value", "low", "high", "seed_sd", "n_seeds", "difference", "difference_low",
           "difference_high", "p", "p_holm", "reason"]  # fmt: skip
N_VALUES = 4
Name = TypeVar("Name", bound=Hashable)
Sums = Mapping[str, Float[Tensor, " sequence"]]


def matched_frame(
    records: Records,
    at: str = "l0",
    values: Sequence[float | int] | None = None,
    metrics: Sequence[str] = MATCHED,
) -> pd.DataFrame:
    """Metrics of every family of dictionaries, interpolated to equal rates.

    One row for each hook, metric, value of the rate `at` and family (`families`). The default
    values are a few round numbers in the range that most families share, at least two, the rates
    of families that have only one where others reach them, and the largest rate that each baseline
    shares with a trained family. At equal bits, metrics are those of quantized coefficients, which
    these bits pay for.

    * **Interpolation.** Between neighbouring dictionaries of a curve, a metric is linear in the
      logarithm of the rate; dictionaries with the same rate are averaged. There is no
      extrapolation: outside the range shared by all curves of a family, the value is `nan`, with a
      reason. All dictionaries with one target have the same denominator, so the per-sequence sums
      are interpolated, and then treated like those of a single dictionary. The rates of the
      dictionaries vary with the text as well, which intervals and p-values include.
    * `value`: the mean over curves, one per training seed. `low`, `high`: its 95 % interval over
      sequences, with seeds fixed.
    * `seed_sd`, `n_seeds`: the standard deviation over seeds, not included in that interval.
    * `difference`: this family minus the best one at this rate, paired over sequences. Its
      interval and `p` include the variation over sequences and training seeds (`over_seeds`), or
      over sequences only if a family has one seed (`p_value`). `p` is below 0.05 exactly where the
      interval leaves out 0.
    * `p_holm`: corrected for all pairs of families at all values of one hook and metric, because
      the best family is selected on the same tokens.

    Raises:
        InputError: unknown rate, or a metric that is not a function of per-sequence sums.
    """
    require_rate(at)
    measures = [resampled_metric(name) for name in metrics]
    rows: dict[tuple, dict[str, Any]] = {}
    for hook, group in by_target(at_rate(records, at)).items():
        found = {name: Family.of(group, curves, at) for name, curves in families(group, at).items()}
        chosen = _default_values(found.values()) if values is None else [float(v) for v in values]
        for metric in measures:
            part = _corrected(found, metric, chosen)
            rows |= {(hook, metric.name, *key): row for key, row in part.items()}
    frame = pd.DataFrame([{"reason": ""} | row for row in rows.values()], columns=COLUMNS)
    return frame.set_index(pd.MultiIndex.from_tuples(rows, names=INDEX) if rows else _empty(INDEX))


def pairs_frame(
    records: Records, values: Sequence[float | int], metric: str, at: str = "l0"
) -> pd.DataFrame:
    """Differences in a metric, the first minus the second, of all pairs of families at equal rates.

    One row for each hook, value of the rate `at` and pair of families that have a value there, in
    alphabetical order: `value`, `low`, `high` and `p` as the differences of `matched_frame`, and
    `p_holm`, corrected for all rows of the hook.
    """
    require_rate(at)
    measure = resampled_metric(metric)
    rows: dict[tuple, tuple[float, ...]] = {}
    for hook, group in by_target(at_rate(records, at)).items():
        found = {name: Family.of(group, curves, at) for name, curves in families(group, at).items()}
        there: dict[tuple, tuple[float, ...]] = {}
        for value in values:
            seeds = {n: f.at(value) for n, f in sorted(found.items()) if not f.missing(value)}
            for one, other in itertools.combinations(seeds, 2):
                behind, p = apart(measure, seeds[one], seeds[other])
                there[hook, value, one, other] = (*behind, p)
        corrected = holm({key: row[-1] for key, row in there.items()})
        rows |= {key: (*row, corrected[key]) for key, row in there.items()}
    index = pd.MultiIndex.from_tuples(rows, names=PAIRS) if rows else _empty(PAIRS)
    return pd.DataFrame(list(rows.values()), index, ["value", "low", "high", "p", "p_holm"])


def _empty(names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([[]] * len(names), names=names)


@dataclass(frozen=True)
class Family:
    """The sums of every curve of a family, at each of its values of `rate`."""

    curves: list[dict[float, Sums]]
    rate: str
    baseline: bool = False

    @classmethod
    def of(cls, records: Records, curves: Iterable[Curve], rate: str) -> "Family":
        """The family with these curves."""
        curves = list(curves)
        baseline = all(records.dictionaries[name].baseline for curve in curves for name in curve)
        return cls([_points(records, curve, rate) for curve in curves], rate, baseline)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and highest rate shared by all curves; low > high if there is none."""
        return max(map(min, self.curves)), min(map(max, self.curves))

    def missing(self, rate: float) -> str:
        """The reason why there is no value at `rate`; empty if there is one."""
        low, high = self.range
        if low <= rate <= high:
            return ""
        if all(len(curve) == 1 for curve in self.curves):
            return "one rate only, so there is nothing to interpolate"
        return f"outside the rates measured, {low:.3g} to {high:.3g}"

    def at(self, rate: float) -> list[Sums]:
        """The sums of every curve, interpolated to `rate`."""
        measure = resampled_metric(self.rate)
        return [_interpolated(curve, measure, rate) for curve in self.curves]


def _points(records: Records, curve: Curve, rate: str) -> dict[float, Sums]:
    """The sums at each rate of a curve in ascending order, averaged over equal rates."""
    by_rate: dict[float, list[Sums]] = {}
    for name in curve:
        record = records.dictionaries[name]
        by_rate.setdefault(value_of(record, rate), []).append(record.sums)
    return {value: _mean(sums) for value, sums in by_rate.items()}


def _mean(several: Sequence[Sums]) -> Sums:
    first, *others = several
    if not others:
        return first
    return {name: torch.stack([sums[name].double() for sums in several]).mean(dim=0)
            for name in first}  # fmt: skip


def _interpolated(curve: dict[float, Sums], measure: PooledMetric, rate: float) -> Sums:
    """The sums at one rate; what a sequence adds includes the steps that it moves the curve by."""
    below, above = max(r for r in curve if r <= rate), min(r for r in curve if r >= rate)
    first, second = curve[below], curve[above]
    if below == above:
        return first
    distance = math.log(above / below)
    part = math.log(rate / below) / distance
    steps = torch.lerp(_moves(measure, first), _moves(measure, second), part) / distance
    return {name: torch.lerp(s.double(), second[name].double(), part)
            + (second[name].sum() - s.sum()) * steps
            for name, s in first.items()}  # fmt: skip


def _moves(measure: PooledMetric, sums: Sums) -> Float[Tensor, " sequence"]:
    """The relative change of a measure if each sequence were left out, about their mean.

    0 for a single sequence, without which there is nothing.
    """
    others = left_out(measure, sums)
    return (others / others.mean() - 1).nan_to_num()


def _default_values(found: Collection[Family]) -> list[float]:
    ranges = [family.range for family in found]
    single = [low for low, high in ranges if low == high]
    ends = {at for at in single if sum(low <= at <= high for low, high in ranges) > 1}
    trained = [family.range for family in found if not family.baseline]
    for low, high in (family.range for family in found if family.baseline):
        shared = [min(high, top) for bottom, top in trained if max(low, bottom) <= min(high, top)]
        ends.update([max(shared)] if shared else [])
    # Within 1 % of an end, a round number would be a second comparison at what reads as one rate.
    other = (
        at
        for at in shared_values(found)
        if not any(math.isclose(at, end, rel_tol=0.01) for end in ends)
    )
    return sorted(ends.union(other))


def shared_values(found: Iterable[Family]) -> list[float]:
    """Round rates (1, 2 and 5 times powers of ten) within the range of most families.

    At most `N_VALUES`, evenly spaced, among those at which the largest number of families has a
    value; empty if no two families have a value at the same one.

    >>> low, high = ({1.0: {}, 30.0: {}}, {4.0: {}, 100.0: {}})
    >>> shared_values([Family([low], "l0"), Family([high], "l0")])
    [5.0, 10.0, 20.0]
    """
    reaching = _reaching(dict(enumerate(found)))
    most = max(map(len, reaching.values()), default=0)
    return _spaced([at for at, names in reaching.items() if len(names) == most > 1])


def values_by_sharers(found: Mapping[Name, Family]) -> dict[frozenset[Name], list[float]]:
    """Sets of families with the round rates that exactly these share, lowest rates first.

    Only sets that no larger one contains: one set of all families if these share a rate, and any
    two that share a rate are together in at least one. At most `N_VALUES` of each set, evenly
    spaced.

    >>> ends = {"low": (1, 9), "high": (9, 60), "both": (4, 60)}
    >>> found = {name: Family([{float(at): {} for at in of}], "l0") for name, of in ends.items()}
    >>> {" ".join(sorted(names)): at for names, at in values_by_sharers(found).items()}
    {'both low': [5.0], 'both high': [10.0, 20.0, 50.0]}
    """
    reaching = _reaching(found)
    sets = dict.fromkeys(reaching.values())
    return {
        names: _spaced([at for at, there in reaching.items() if there == names])
        for names in sets
        if not any(names < other for other in sets)
    }


def _reaching(found: Mapping[Name, Family]) -> dict[float, frozenset[Name]]:
    """The names of the families that have a value at each round rate that any of them has."""
    ranges = {name: family.range for name, family in found.items()}
    ends = [end for low, high in ranges.values() if low < high for end in (low, high)]
    if not ends:
        return {}
    decades = range(math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends))) + 1)
    reaching = {
        at: frozenset(name for name, (low, high) in ranges.items() if low <= at <= high)
        for at in (step * 10.0**decade for decade in decades for step in (1, 2, 5))
    }
    return {at: names for at, names in reaching.items() if names}


def _spaced(values: Sequence[float]) -> list[float]:
    """At most `N_VALUES` of these values, evenly spaced from first to last."""
    if len(values) <= N_VALUES:
        return list(values)
    return [values[round(i * (len(values) - 1) / (N_VALUES - 1))] for i in range(N_VALUES)]


def _corrected(
    found: Mapping[str, Family], metric: PooledMetric, values: Iterable[float]
) -> dict[tuple[float, str], dict[str, Any]]:
    """The rows of all families at all rates, with p-values corrected for all pairs of families."""
    rows = {
        (value, name): row for value in values for name, row in _rows(found, metric, value).items()
    }
    per_value = Counter(value for (value, _), row in rows.items() if "difference" in row)
    n_pairs = sum(math.comb(n, 2) for n in per_value.values())
    p_values = {key: row["p"] for key, row in rows.items() if "p" in row}
    for key, p in holm(p_values, n_pairs).items():
        rows[key]["p_holm"] = p
    return rows


def _rows(
    found: Mapping[str, Family], metric: PooledMetric, rate: float
) -> dict[str, dict[str, Any]]:
    """The rows of all families at one rate."""
    reasons = {name: family.missing(rate) for name, family in found.items()}
    seeds = {name: found[name].at(rate) for name, reason in reasons.items() if not reason}
    sums = {name: _mean(curves) for name, curves in seeds.items()}
    rows: dict[str, dict[str, Any]] = {name: {"reason": r} for name, r in reasons.items() if r}
    of_seeds = {n: [pooled(metric, curve) for curve in curves] for n, curves in seeds.items()}
    for name, values in of_seeds.items():
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        about = interval(metric, sums[name])._asdict()
        rows[name] = about | {"seed_sd": spread, "n_seeds": len(values)}
        if not math.isfinite(rows[name]["value"]):
            rows[name]["reason"] = metric.undefined
    defined = {name: s for name, s in sums.items() if "reason" not in rows[name]}
    if defined and metric.better != "neither":
        pick = max if metric.better == "higher" else min
        best = pick(defined, key=lambda name: rows[name]["value"])
        for name in defined:
            rows[name]["difference"] = 0.0
            if name != best:
                behind, p = apart(metric, seeds[name], seeds[best])
                rows[name] |= dict(zip(COLUMNS[5:9], (*behind, p), strict=True))
    return {name: rows[name] for name in found}


def apart(
    metric: PooledMetric, first: Sequence[Sums], second: Sequence[Sums]
) -> tuple[Interval, float]:
    """The metric of one family minus that of another, with its interval and p-value.

    Each family has the sums of one curve per training seed. The variation over seeds is included if
    both have several.
    """
    paired = difference(metric, _mean(first), _mean(second))
    n_sequences = len(first[0]["rows"])
    if min(len(first), len(second)) == 1:
        return paired, p_value(paired, n_sequences - 1)
    of_seeds = ([pooled(metric, sums) for sums in family] for family in (first, second))
    return over_seeds(paired, n_sequences, *of_seeds)
