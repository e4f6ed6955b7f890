"""Families interpolated to equal rates, and the rates that several of them share."""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.comparison.statistics.families import Curve
from dictlearn.comparison.statistics.intervals import left_out, resampled_metric
from dictlearn.comparison.vocabulary import value_of
from dictlearn.metrics.pooled import PooledMetric
from dictlearn.records.results import Records

N_VALUES = 4
Name = TypeVar("Name", bound=Hashable)
Sums = Mapping[str, Float[Tensor, " sequence"]]


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
    return {value: mean_sums(sums) for value, sums in by_rate.items()}


def mean_sums(several: Sequence[Sums]) -> Sums:
    """The mean of the sums of several dictionaries."""
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


def default_values(found: Collection[Family]) -> list[float]:
    """The rates at which `matched_frame` compares families unless told otherwise."""
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
