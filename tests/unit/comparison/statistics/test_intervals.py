"""Intervals cover what they should; copies do not differ; families are corrected."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm, ttest_ind

from dictlearn.comparison.statistics.intervals import (
    difference,
    differences_frame,
    holm,
    interval,
    intervals_frame,
    over_seeds,
    sign_flip_p_value,
)
from dictlearn.core.errors import InputError
from dictlearn.metrics.bootstrap import Interval, bootstrap_weights
from dictlearn.metrics.pooled import METRICS

FVU = next(m for m in METRICS if m.name == "fraction_variance_unexplained")


def sequences(n, ratio, generator):
    """Sums whose true ratio is `ratio`: lengths vary, and errors depend within a sequence."""
    variance = 5 + 10 * torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    return {"squared_error": variance * (ratio + 0.1 * noise), "variance": variance}


def test_95_percent_intervals_cover_the_truth_95_percent_of_the_time():
    generator = torch.Generator().manual_seed(0)
    weights = bootstrap_weights(150)
    covered = 0
    for _ in range(1500):
        found = interval(FVU, sequences(150, 0.3, generator), weights)
        covered += found.low <= 0.3 <= found.high
    assert 0.93 <= covered / 1500 <= 0.97


def test_paired_differences_cover_the_truth_and_are_narrower_than_unpaired_ones():
    generator = torch.Generator().manual_seed(1)
    weights = bootstrap_weights(150)
    covered = 0
    for _ in range(1500):
        first = sequences(150, 0.3, generator)
        own = torch.randn(150, generator=generator, dtype=torch.float64)
        worse = first["squared_error"] + first["variance"] * (0.05 + 0.01 * own)
        second = {**first, "squared_error": worse}
        found = difference(FVU, second, first, weights)
        covered += found.low <= 0.05 <= found.high
    assert 0.93 <= covered / 1500 <= 0.97
    alone = interval(FVU, first, weights)
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


def test_the_null_is_rejected_as_often_as_stated():
    generator = torch.Generator().manual_seed(2)
    rejected = sum(
        sign_flip_p_value(FVU, sequences(60, 0.3, generator), sequences(60, 0.3, generator), 500)
        <= 0.05
        for _ in range(400)
    )
    assert 0.02 <= rejected / 400 <= 0.085


def test_two_copies_differ_by_exactly_nothing():
    first = sequences(40, 0.3, torch.Generator().manual_seed(0))
    copy = {name: s.clone() for name, s in first.items()}
    assert difference(FVU, first, copy, bootstrap_weights(40, 200)) == (0.0, 0.0, 0.0)
    assert sign_flip_p_value(FVU, first, copy, 200) == 1.0


def test_a_consistent_difference_has_the_smallest_p_value():
    first = sequences(40, 0.3, torch.Generator().manual_seed(0))
    second = {**first, "squared_error": 2 * first["squared_error"].abs() + 1}
    assert sign_flip_p_value(FVU, second, first, 999) == pytest.approx(1 / 1000)


def test_an_undefined_metric_has_no_interval_and_no_p_value():
    flat = {"squared_error": torch.ones(5), "variance": torch.zeros(5)}
    assert all(math.isnan(v) for v in interval(FVU, flat, bootstrap_weights(5, 10)))
    assert math.isnan(sign_flip_p_value(FVU, flat, flat, 10))


def test_holm_by_hand():
    assert holm({"a": 0.2, "b": 0.01, "c": 0.02, "d": math.nan})["d"] != 0
    adjusted = holm({"a": 0.2, "b": 0.01, "c": 0.02})
    assert adjusted == pytest.approx({"a": 0.2, "b": 0.03, "c": 0.04})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


def test_frames_have_a_row_for_everything(records):
    frame = intervals_frame(records, n_resamples=50)
    names = [m.name for m in METRICS if m.resampled]
    assert len(frame) == len(names) * len(records.dictionaries)
    defined = frame.dropna()
    assert (defined.low <= defined.value + 1e-9).all()
    assert (defined.value <= defined.high + 1e-9).all()


def test_without_sampling_error_seeds_are_compared_by_welchs_test():
    first, second = [0.3, 0.35, 0.28], [0.4, 0.5, 0.45, 0.41]
    value = sum(first) / 3 - sum(second) / 4
    apart, p = over_seeds(Interval(value, value, value), first, second)
    known = ttest_ind(first, second, equal_var=False)
    assert p == pytest.approx(known.pvalue)
    assert apart[1:] == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_without_a_spread_of_seeds_the_interval_is_that_of_the_sequences():
    margin = 0.02 * norm.ppf(0.975)
    paired = Interval(0.05, 0.05 - margin, 0.05 + margin)
    apart, p = over_seeds(paired, [0.3, 0.3], [0.25, 0.25])
    assert apart == pytest.approx(paired)
    assert p == pytest.approx(2 * norm.sf(2.5))
    assert over_seeds(Interval(0.0, 0.0, 0.0), [0.3] * 2, [0.3] * 2)[1] == 1


def test_intervals_over_sequences_and_seeds_cover_as_often_as_they_say():
    """Both errors at once, of like size, three seeds against three."""
    generator = torch.Generator().manual_seed(0)
    half = 0.05 * norm.ppf(0.975)
    covered, rejected = 0, 0
    for _ in range(4000):
        a, b = 0.06 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        sampling = 0.05 * torch.randn((), generator=generator, dtype=torch.float64)
        value = float(a.mean() - b.mean() + sampling)
        paired = Interval(value, value - half, value + half)
        apart, p = over_seeds(paired, a.tolist(), b.tolist())
        covered += apart.low <= 0 <= apart.high
        rejected += p < 0.05
    assert covered + rejected == 4000
    assert 0.93 < covered / 4000 < 0.97


def test_comparisons_that_were_picked_count_those_that_were_not():
    assert holm({"a": 0.01, "b": 0.04}, 5) == pytest.approx({"a": 0.05, "b": 0.16})


def test_differences_are_taken_from_the_reference(records):
    first, *others = records.dictionaries
    twin = replace(records.dictionaries[first])
    records = replace(records, dictionaries={**records.dictionaries, "twin": twin})
    frame = differences_frame(records, "kl", first, n_resamples=50)
    assert list(frame.index) == [*others, "twin"]
    assert frame.loc["twin", ["value", "low", "high", "p"]].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert (frame.p_holm >= frame.p).all()


def test_unknown_names_are_answered_with_the_nearest(records):
    with pytest.raises(InputError, match="loss_recovered_zero"):
        differences_frame(records, "loss_recovered_zer", next(iter(records.dictionaries)))
    with pytest.raises(InputError, match="no dictionary"):
        differences_frame(records, "kl", "nobody")
