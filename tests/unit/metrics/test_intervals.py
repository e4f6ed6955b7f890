"""Intervals of precision, recall and their differences contain the truth as often as they say."""

import math
from typing import NamedTuple

import pytest
import torch

from dictlearn.metrics.intervals import Jackknifed, student_quantile
from dictlearn.metrics.precision import jackknifed_average_precision, jackknifed_ratio

N_RUNS = 800
LEAST = {4: 0.92, 8: 0.91, 16: 0.92, 32: 0.92, 158: 0.93}
"""The least part of 95 % intervals that has to contain the truth, by number of sequences."""
MOST = 0.99


class Text(NamedTuple):
    """How often matches occur, and how far two detectors set them apart, in standard deviations."""

    base_rate: float
    bursts: float
    """Standard deviation over sequences of the logarithm of the rate of matches."""
    apart: tuple[float, float]


TEXTS = {
    "even": Text(0.1, 0.0, (2.5, 1.5)),
    "bursty": Text(0.08, 1.0, (2.5, 1.0)),
    "rare": Text(0.04, 1.0, (3.5, 2.0)),
    "null": Text(0.08, 1.0, (0.0, 0.0)),
    "sharp": Text(0.08, 1.0, (5.0, 3.5)),
}


def sampled(text, n_sequences, generator):
    """Labels, the sequence of each token, and the scores of both detectors.

    Lengths, rates of matches and the quality of the detectors vary between sequences.
    """

    def normal(n):
        return torch.randn(n, generator=generator)

    lengths = torch.randint(40, 120, (n_sequences,), generator=generator)
    sequences = torch.repeat_interleave(lengths)
    n = len(sequences)
    rates = text.base_rate * torch.exp(text.bursts * normal(n_sequences) - text.bursts**2 / 2)
    labels = torch.rand(n, generator=generator) < rates.clamp(max=0.5)[sequences]
    scores = []
    for apart in text.apart:
        matching, other = 0.4 * normal(n_sequences), 0.3 * normal(n_sequences)
        shift = torch.where(labels, apart + matching[sequences], other[sequences])
        scores.append(normal(n) + shift)
    return labels, sequences, scores


def measures(labels, sequences, scores, n_sequences):
    """Average precision of both detectors, and precision and recall of the first from 1.5 on."""
    taken = scores[0] >= 1.5
    counts = {
        name: torch.bincount(sequences[tokens], minlength=n_sequences)
        for name, tokens in (("hits", taken & labels), ("taken", taken), ("matches", labels))
    }
    average = [jackknifed_average_precision(s, labels, sequences, n_sequences) for s in scores]
    return {
        "average precision": average[0],
        "lower average precision": average[1],
        "precision": jackknifed_ratio(counts["hits"], counts["taken"]),
        "recall": jackknifed_ratio(counts["hits"], counts["matches"]),
    }


def intervals(found):
    first, second = found["average precision"], found["lower average precision"]
    return {name: some.interval for name, some in found.items()} | {
        "difference": first.minus(second)
    }


@pytest.mark.parametrize("n_sequences", LEAST)
@pytest.mark.parametrize("text", TEXTS)
def test_printed_intervals_contain_the_truth_as_often_as_they_say(text, n_sequences):
    generator = torch.Generator().manual_seed(n_sequences)
    population = sampled(TEXTS[text], 6000, generator)
    none = torch.zeros_like(population[1])
    truth = {
        name: some.value for name, some in measures(population[0], none, population[2], 1).items()
    }
    truth["difference"] = truth["average precision"] - truth["lower average precision"]
    contained: dict[str, list[bool]] = {name: [] for name in truth}
    runs = N_RUNS if n_sequences < 158 else N_RUNS // 2
    while len(contained["lower average precision"]) < runs:
        labels, sequences, scores = sampled(TEXTS[text], n_sequences, generator)
        if int(labels.sum()) < 10 or len(sequences[labels].unique()) < 4:
            continue
        for name, found in intervals(measures(labels, sequences, scores, n_sequences)).items():
            if math.isfinite(found.low):
                contained[name].append(found.low <= truth[name] <= found.high)
    coverage = {n: (round(sum(c) / len(c), 3), len(c)) for n, c in contained.items() if c}
    for name, (share, printed) in coverage.items():
        if printed > runs / 2:
            assert LEAST[n_sequences] <= share <= MOST, (name, coverage)


def test_the_interval_by_hand():
    """Left out values 0.6, 0.5 and 0.4: a standard error of 0.1155, 0.462 in log odds."""
    found = Jackknifed(0.5, torch.tensor([0.6, 0.5, 0.4])).interval
    error = math.sqrt(2 / 3 * 0.02) / 0.25
    high = 1 / (1 + math.exp(-student_quantile(2) * error))
    assert found == pytest.approx((0.5, 1 - high, high))


def test_few_sequences_with_all_the_variation_give_a_wide_interval():
    """One of many: its square has a single degree of freedom."""
    left_out = torch.full((50,), 0.5, dtype=torch.float64)
    left_out[0] = 0.55
    apart = left_out - left_out.mean()
    error = math.sqrt(49 / 50 * float(apart.square().sum())) / 0.25
    total, fourth = float(apart.square().sum()), float(apart.pow(4).sum())
    freedom = 2 * total**2 / (fourth - total**2 / 50)
    assert 2 < freedom < 2.2
    high = 1 / (1 + math.exp(-student_quantile(freedom) * error))
    assert Jackknifed(0.5, left_out).interval.high == pytest.approx(high)


@pytest.mark.parametrize(
    ("value", "left_out"),
    [
        (1.0, [1.0, 1.0, 1.0]),
        (0.5, [0.5, 0.5, 0.5]),
        (0.5, [0.5, math.nan, 0.4]),
        (0.0, [0.0, 0.0]),
    ],
)
def test_without_variation_there_is_no_interval(value, left_out):
    one = Jackknifed(value, torch.tensor(left_out))
    other = Jackknifed(0.5, torch.tensor([0.5, 0.4, 0.6][: len(left_out)]))
    for found in (one.interval, one.minus(other), other.minus(one)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert one.minus(other).value == value - 0.5


def test_paired_differences_are_narrower_than_the_sum_of_both():
    left_out = torch.linspace(0.4, 0.6, 9, dtype=torch.float64)
    first, second = Jackknifed(0.5, left_out), Jackknifed(0.4, left_out - 0.1)
    paired = first.minus(second)
    assert paired.value == pytest.approx(0.1)
    assert paired.high - paired.low < 0.2 * (first.interval.high - first.interval.low)
    other_way = second.minus(first)
    assert (other_way.low, other_way.high) == pytest.approx((-paired.high, -paired.low))
