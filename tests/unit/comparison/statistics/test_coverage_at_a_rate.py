"""Intervals at equal rates contain the truth, though the rates vary with the text as well."""

from functools import cache

import pytest
import torch

from dictlearn.comparison.statistics.interpolation import Family
from dictlearn.comparison.statistics.intervals import (
    difference,
    interval,
    p_value,
    pooled,
    resampled_metric,
)

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

COVERED = {4: 0.92, 8: 0.93, 32: 0.93}
"""The least part of 95 % intervals that has to contain the truth, by number of sequences."""
N_RUNS = 3000
FVU, RECOVERED = "fraction_variance_unexplained", "loss_recovered_zero"
CASES = [("l0", 12.0, FVU), ("bits", 72.0, RECOVERED)]


def evaluations(n_runs, n, seed):
    """Sums of two families of two dictionaries, of `n_runs` evaluations of `n` sequences.

    Lengths vary, and so do errors and rates: a difficult sequence has more of both. Dictionaries
    of one family vary together, those of two families less so.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(n_runs, n, generator=generator, dtype=torch.float64)

    rows = torch.randint(40, 129, (n_runs, n), generator=generator).double()
    difficulty, own = normal(), normal()
    variance, zero = torch.exp(0.1 * normal()), torch.exp(0.1 * difficulty + 0.2 * normal())
    found = []
    for worse in (1.0, 1.1):
        of_family, number = normal(), normal()
        curve = []
        for l0 in (8, 16):
            error = worse * l0**-0.35 * torch.exp(0.15 * difficulty + 0.2 * own + 0.04 * of_family)
            active = l0 * torch.exp(0.15 * difficulty + 0.1 * number + 0.03 * normal())
            per_row = {"rows": 1, "l0": active, "bits": 6 * active, "variance": variance,
                       "squared_error": 0.5 * error * torch.exp(0.05 * normal()),
                       "cross_entropy_clean": 2, "cross_entropy_zero": 2 + 1.5 * zero,
                       "cross_entropy_spliced": 2 + 0.15 * error}  # fmt: skip
            curve.append({name: value * rows for name, value in per_row.items()})
        found.append(curve)
    return found


def families(found, run, rate):
    """The families in one evaluation, interpolated as `matched_frame` does."""
    measure = resampled_metric(rate)
    for curve in found:
        points = [{name: s[run] for name, s in sums.items()} for sums in curve]
        yield Family([{pooled(measure, p): p for p in points}], rate)


@cache
def truth(rate, at, name):
    many = families(evaluations(1, 400_000, seed=0), 0, rate)
    return [pooled(resampled_metric(name), family.at(at)[0]) for family in many]


@pytest.mark.parametrize("n", COVERED)
@pytest.mark.parametrize(("rate", "at", "name"), CASES)
def test_intervals_at_a_rate_and_of_differences_cover_the_truth(n, rate, at, name):
    metric, (a, b) = resampled_metric(name), truth(rate, at, name)
    found, hits = evaluations(N_RUNS, n, seed=n), []
    for run in range(N_RUNS):
        both = list(families(found, run, rate))
        if not any(family.missing(at) for family in both):
            first, second = (family.at(at)[0] for family in both)
            alone, apart = interval(metric, first), difference(metric, first, second)
            hits.append((alone.low <= a <= alone.high, apart.low <= a - b <= apart.high))
    assert len(hits) > 0.9 * N_RUNS
    for share in torch.tensor(hits).double().mean(dim=0).tolist():
        assert COVERED[n] <= share <= 0.97


def test_families_that_are_equal_at_a_rate_are_found_different_as_often_as_stated():
    metric, found = resampled_metric(FVU), evaluations(300, 16, seed=5)
    a, b = truth("l0", 12.0, FVU)
    for sums in found[1]:
        sums["squared_error"] *= a / b
    rejected = 0
    for run in range(300):
        first, second = (family.at(12.0)[0] for family in families(found, run, "l0"))
        rejected += p_value(difference(metric, first, second), 15) < 0.05
    assert 0.02 <= rejected / 300 <= 0.085


def test_the_value_at_a_rate_is_that_of_the_sums_and_sequences_are_left_out_of_rates_too():
    """What is left without a sequence is, in first order, the curve of the others."""
    found = evaluations(1, 200, seed=3)
    (family, _), (low, high) = families(found, 0, "l0"), found[0]
    metric, (sums,) = resampled_metric(FVU), family.at(12.0)
    points = [{name: s[0] for name, s in point.items()} for point in (low, high)]
    for sequence in range(5):
        others = torch.arange(200) != sequence
        left = [{name: s[others] for name, s in point.items()} for point in points]
        measured = [pooled(resampled_metric("l0"), point) for point in left]
        expected = Family([dict(zip(measured, left, strict=True))], "l0").at(12.0)[0]
        now = {name: s[others] for name, s in sums.items()}
        change = pooled(metric, expected) - pooled(metric, sums)
        assert pooled(metric, now) - pooled(metric, sums) == pytest.approx(change, rel=0.1)
