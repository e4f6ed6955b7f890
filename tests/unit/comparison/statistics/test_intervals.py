"""Intervals cover what they should; copies do not differ; families are corrected."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_ind, ttest_rel

from dictlearn.comparison.statistics.intervals import (
    difference,
    differences_frame,
    holm,
    interval,
    intervals_frame,
    over_seeds,
    p_value,
)
from dictlearn.core.errors import InputError
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.intervals import Interval, student_quantile
from dictlearn.metrics.pooled import METRICS, PooledMetric

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

FVU = next(m for m in METRICS if m.name == "fraction_variance_unexplained")


COVERED = {4: 0.92, 8: 0.93, 16: 0.93, 32: 0.93, 158: 0.93}
"""The least part of 95 % intervals that has to contain the truth, by number of sequences."""
N_RUNS = 4000
MANY = 10**6
"""Sequences with which Student's distribution is the normal one."""


def sequences(n, ratio, generator):
    """Sums whose true ratio is `ratio`: lengths vary, and errors depend within a sequence."""
    variance = 5 + 10 * torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return {"squared_error": variance * (ratio + 0.1 * noise), "variance": variance}


def evaluations(n_runs, n, seed):
    """Every sum of `n_runs` evaluations of `n` sequences, whose lengths and difficulty vary.

    A difficult sequence is so in all respects: its tokens have larger losses, errors and norms.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(n_runs, n, generator=generator, dtype=torch.float64)

    difficulty = normal()

    def around(mean, shared, own):
        return mean * torch.exp(shared * difficulty + own * normal() - (shared**2 + own**2) / 2)

    rows = torch.randint(40, 129, (n_runs, n), generator=generator).double()
    clean, lost = around(2, 0.15, 0.1), around(0.08, 0.15, 0.2)
    per_row = {
        "l0": around(20, 0.1, 0.1), "l1": around(30, 0.1, 0.2), "norm": around(1, 0.05, 0.05),
        "squared_error": around(0.2, 0.15, 0.2), "variance": around(1, 0.1, 0.1),
        "typical_squared_error": around(0.3, 0.15, 0.2), "typical_variance": around(0.9, 0.1, 0.1),
        "cosine": 1 - around(0.1, 0.1, 0.2), "norm_hat": around(0.9, 0.05, 0.05),
    }  # fmt: skip
    per_prediction = {
        "cross_entropy_clean": clean, "cross_entropy_spliced": clean + lost + 0.02 * normal(),
        "cross_entropy_zero": clean + around(1.5, 0.1, 0.2), "kl": 1.2 * lost,
        "cross_entropy_mean": clean + around(0.8, 0.1, 0.2), "kl_zero": around(2, 0.1, 0.2),
        "cross_entropy_resample": clean + around(2, 0.1, 0.2),
        "top1_agreement": 1 - around(0.1, 0.15, 0.2),
    }  # fmt: skip
    sums = {name: value * rows for name, value in per_row.items()}
    sums |= {name: value * (rows - 1) for name, value in per_prediction.items()}
    return sums | {"rows": rows, "predictions": rows - 1}


def ends(metric, first, second=None):
    """The intervals of all evaluations at once, as `interval` and `difference` give one."""
    whole, others = 0.0, 0.0
    for sign, sums in ((1, first), (-1, second)):
        if sums is not None:
            totals = {name: sums[name].sum(dim=1, keepdim=True) for name in metric.sums}
            whole = whole + sign * metric(totals)
            others = others + sign * metric({name: s - sums[name] for name, s in totals.items()})
    n, apart = others.shape[1], others - others.mean(dim=1, keepdim=True)
    error = ((n - 1) / n * apart.square().sum(dim=1, keepdim=True)).sqrt()
    margin = student_quantile(n - 1) * error
    return whole - margin, whole + margin


def covered(metric, first, truth, second=None):
    """The share of evaluations whose interval contains the truth."""
    low, high = ends(metric, first, second)
    for run in range(3):
        own, other = ({name: s[run] for name, s in (sums or {}).items() if name in metric.sums}
                      for sums in (first, second))  # fmt: skip
        found = difference(metric, own, other) if other else interval(metric, own)
        assert found[1:] == pytest.approx((low[run].item(), high[run].item()), abs=1e-12)
    return ((low <= truth) & (truth <= high)).double().mean().item()


@pytest.mark.parametrize(("n", "least"), COVERED.items())
def test_the_interval_of_every_metric_covers_the_truth_as_often_as_it_says(n, least):
    many, found = evaluations(200, 5000, seed=1), evaluations(N_RUNS, n, seed=n)
    for metric in METRICS:
        if metric.resampled:
            truth = metric({name: many[name].sum() for name in metric.sums}).item()
            assert least <= covered(metric, found, truth) <= 0.97, metric.name


@pytest.mark.parametrize(("n", "least"), COVERED.items())
def test_paired_differences_do_too(n, least):
    found, generator = evaluations(N_RUNS, n, seed=n), torch.Generator().manual_seed(0)
    own = torch.randn(found["rows"].shape, generator=generator, dtype=torch.float64)
    for name, total in (("fraction_variance_unexplained", "variance"),
                        ("loss_recovered_zero", "predictions")):  # fmt: skip
        metric = next(m for m in METRICS if m.name == name)
        changed = "squared_error" if total == "variance" else "cross_entropy_spliced"
        worse = {**found, changed: found[changed] + found[total] * (0.05 + 0.02 * own)}
        many = evaluations(200, 5000, seed=1)
        denominator = metric.denominator.split(" - ")
        whole = many[denominator[0]].sum() - sum(many[d].sum() for d in denominator[1:])
        truth = 0.05 * float(many[total].sum() / whole) * (1 if total == "variance" else -1)
        assert least <= covered(metric, worse, truth, found) <= 0.97, name


def test_paired_differences_have_narrower_intervals_than_single_values():
    one = {name: s[0] for name, s in evaluations(1, 158, seed=0).items()}
    other = {**one, "squared_error": 1.1 * one["squared_error"]}
    paired, alone = difference(FVU, other, one), interval(FVU, one)
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_the_jackknife_by_hand():
    sums = {"squared_error": torch.tensor([1.0, 2.0, 3.0]), "variance": torch.tensor([4.0, 4, 4])}
    left_out = torch.tensor([5 / 8, 4 / 8, 3 / 8], dtype=torch.float64)
    error = (2 / 3 * (left_out - 0.5).square().sum()).sqrt().item()
    assert interval(FVU, sums) == pytest.approx(
        (0.5, 0.5 - 4.303 * error, 0.5 + 4.303 * error), rel=1e-3
    )


def p_of(first, second):
    return p_value(difference(FVU, first, second), len(first["variance"]) - 1)


@pytest.mark.parametrize("n", [2, 4, 6, 60])
def test_with_equal_denominators_the_p_value_is_that_of_a_paired_t_test(n):
    """The jackknife of a mean is its usual standard error."""
    generator = torch.Generator().manual_seed(n)
    flat = 7 * torch.ones(n, dtype=torch.float64)
    first, second = (
        {"squared_error": shift + torch.rand(n, generator=generator).double(), "variance": flat}
        for shift in (1.0, 1.1)
    )
    known = ttest_rel(first["squared_error"], second["squared_error"])
    assert p_of(first, second) == pytest.approx(known.pvalue, rel=1e-9)
    ends = [end / 7 for end in known.confidence_interval(0.95)]
    assert difference(FVU, first, second)[1:] == pytest.approx(ends, rel=1e-9)


@given(st.floats(-5, 5), st.floats(1e-6, 5), st.floats(1, 1000))
def test_a_value_differs_from_0_exactly_where_its_interval_leaves_out_0(value, half, freedom):
    p = p_value(Interval(value, value - half, value + half), freedom)
    assume(abs(p - 0.05) > 1e-9)
    assert (p >= 0.05) == (value - half <= 0 <= value + half)


def test_the_null_is_rejected_as_often_as_stated():
    generator = torch.Generator().manual_seed(2)
    rejected = sum(
        p_of(sequences(60, 0.3, generator), sequences(60, 0.3, generator)) < 0.05
        for _ in range(400)
    )
    assert 0.02 <= rejected / 400 <= 0.085


def test_two_copies_differ_by_exactly_nothing():
    first = sequences(40, 0.3, torch.Generator().manual_seed(0))
    copy = {name: s.clone() for name, s in first.items()}
    assert difference(FVU, first, copy) == (0.0, 0.0, 0.0)
    assert p_of(first, copy) == 1.0


def test_a_difference_without_any_variation_is_one_unless_it_is_rounding():
    assert p_value(Interval(0.1, 0.1, 0.1), 3) == 0
    assert p_value(Interval(1e-16, 1e-16, 1e-16), 3) == 1
    assert p_value(Interval(-1e-16, -2e-16, 0.5e-16), 3) == 1


def test_an_undefined_metric_has_no_interval_and_no_p_value():
    flat = {"squared_error": torch.ones(5), "variance": torch.zeros(5)}
    assert all(math.isnan(v) for v in interval(FVU, flat))
    assert math.isnan(p_of(flat, flat))


def test_one_sequence_and_sums_that_are_not_there_have_no_interval():
    one = {"squared_error": torch.ones(1), "variance": 2 * torch.ones(1)}
    found = interval(FVU, one)
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert all(math.isnan(v) for v in interval(FVU, {"variance": torch.ones(5)}))
    paired = Interval(0.1, math.nan, math.nan)
    assert math.isnan(p_value(paired, 0))
    apart, p = over_seeds(paired, 1, [0.3, 0.4], [0.2, 0.3])
    assert apart[0] == 0.1
    assert math.isnan(p)


def test_holm_by_hand():
    assert holm({"a": 0.2, "b": 0.01, "c": 0.02, "d": math.nan})["d"] != 0
    adjusted = holm({"a": 0.2, "b": 0.01, "c": 0.02})
    assert adjusted == pytest.approx({"a": 0.2, "b": 0.03, "c": 0.04})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_frames_have_a_row_for_everything(records):
    frame = intervals_frame(records)
    names = [m.name for m in REPORTED if isinstance(m, PooledMetric) and m.resampled]
    assert {"l0", "support_bits", "coefficient_bits", "bits"} < set(names)
    assert len(frame) == len(names) * len(records.dictionaries)
    defined = frame.dropna()
    assert (defined.low <= defined.value + 1e-9).all()
    assert (defined.value <= defined.high + 1e-9).all()


def test_without_sampling_error_seeds_are_compared_by_welchs_test():
    first, second = [0.3, 0.35, 0.28], [0.4, 0.5, 0.45, 0.41]
    value = sum(first) / 3 - sum(second) / 4
    apart, p = over_seeds(Interval(value, value, value), 9, first, second)
    known = ttest_ind(first, second, equal_var=False)
    assert p == pytest.approx(known.pvalue)
    assert apart[1:] == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_without_a_spread_of_seeds_the_interval_is_that_of_the_sequences():
    margin = 0.02 * norm.ppf(0.975)
    paired = Interval(0.05, 0.05 - margin, 0.05 + margin)
    apart, p = over_seeds(paired, MANY, [0.3, 0.3], [0.25, 0.25])
    assert apart == pytest.approx(paired)
    assert p == pytest.approx(2 * norm.sf(2.5), rel=1e-5)
    assert over_seeds(Interval(0.0, 0.0, 0.0), 9, [0.3] * 2, [0.3] * 2)[1] == 1


@pytest.mark.parametrize(("n_seeds", "n", "spread"), [(3, MANY, 0.06), (3, 8, 0.06), (2, 32, 0.06),
                                                      (2, MANY, 1.0)])  # fmt: skip
def test_intervals_over_sequences_and_seeds_cover_as_often_as_they_say(n_seeds, n, spread):
    """Both errors at once, of like size; and two seeds with all the variation."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    covered, rejected = 0, 0
    for _ in range(4000):
        a, b = spread * normal(2, n_seeds)
        value = float(a.mean() - b.mean() + 0.05 * normal(()))
        found = 0.05 * (normal(n - 1).square().mean().sqrt().item() if n < MANY else 1)
        half = student_quantile(n - 1) * found
        paired = Interval(value, value - half, value + half)
        apart, p = over_seeds(paired, n, a.tolist(), b.tolist())
        covered += apart.low <= 0 <= apart.high
        rejected += p < 0.05
    assert covered + rejected == 4000
    assert 0.93 < covered / 4000 < (0.97 if spread < 1 else 0.98)


def test_comparisons_that_were_picked_count_those_that_were_not():
    assert holm({"a": 0.01, "b": 0.04}, 5) == pytest.approx({"a": 0.05, "b": 0.16})


def test_differences_are_taken_from_the_reference(records):
    first, *others = records.dictionaries
    twin = replace(records.dictionaries[first])
    records = replace(records, dictionaries={**records.dictionaries, "twin": twin})
    frame = differences_frame(records, "kl", first)
    assert list(frame.index) == [*others, "twin"]
    assert frame.loc["twin", ["value", "low", "high", "p"]].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert (frame.p_holm >= frame.p).all()


def test_unknown_names_are_answered_with_the_nearest(records):
    with pytest.raises(InputError, match="loss_recovered_zero"):
        differences_frame(records, "loss_recovered_zer", next(iter(records.dictionaries)))
    with pytest.raises(InputError, match="no dictionary"):
        differences_frame(records, "kl", "nobody")
