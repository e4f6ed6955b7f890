"""Intervals of precision, recall and their differences contain the truth as often as they say."""

import math
from typing import NamedTuple

import pytest
import torch
from scipy.stats import binom
from scipy.stats import t as student

from dictlearn.metrics.intervals import Jackknifed, proportion_ends, student_quantile
from dictlearn.metrics.precision import jackknifed_average_precision, jackknifed_ratio

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

LEAST, MOST = 0.93, 0.97
"""The part of 95 % intervals that contains the truth, where at least `MANY` misses are expected."""
MOST_OF_FOUR = 0.985
"""The most where there are only 4 sequences."""
MANY = 20
"""With fewer misses expected in a text, their number takes few values, each with one interval."""
LENGTHS = {4: 400, 8: 200, 32: 100, 158: 60}
"""Mean number of tokens of a sequence."""


# A threshold: the counts of whole texts at once


def counted(n_runs, n, length, base_rate, bursts, precision, seed):
    """Tokens that are predicted positive in each sequence, and the matches among them.

    Lengths, rates of matches, recall and false positives vary between sequences.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(n_runs, n, generator=generator)

    lengths = torch.randint(length // 2, 3 * length // 2, (n_runs, n), generator=generator).float()
    rates = (base_rate * torch.exp(bursts * normal() - bursts**2 / 2)).clamp(max=0.5)
    matches = torch.binomial(lengths, rates, generator=generator)
    hits = torch.binomial(matches, torch.sigmoid(1 + 0.7 * normal()), generator=generator)
    usual = 0.7 * base_rate / (1 - base_rate) * (1 - precision) / precision
    wrong = (usual * torch.exp(0.7 * normal() - 0.7**2 / 2)).clamp(max=0.5)
    false = torch.binomial(lengths - matches, wrong, generator=generator)
    return hits.long(), (hits + false).long()


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize(("base_rate", "bursts"), [(0.1, 0.0), (0.05, 1.0), (0.01, 0.7)])
def test_intervals_of_precision_cover_it_from_three_tenths_to_nearly_one(n, base_rate, bursts):
    length = LENGTHS[n] * (4 if base_rate < 0.05 else 1)
    for precision in (0.3, 0.6, 0.9, 0.99, 0.9999):
        text = length, base_rate, bursts, precision
        hits, taken = counted(1, 300_000, *text, seed=n)
        truth = hits.sum() / taken.sum()
        hits, taken = counted(4000 if n < 158 else 1500, n, *text, seed=n + 1)
        above, below = hits.sum(1, keepdim=True), taken.sum(1, keepdim=True).double()
        left_out = (above - hits) / (below - taken)
        low, high = proportion_ends((above / below)[:, 0], left_out, taken)
        share = ((low <= truth) & (truth <= high)).double().mean().item()
        assert low.isfinite().all(), "every proportion has an interval"
        misses = (below - above).mean()
        most = MOST if misses >= MANY else 0.98 if misses >= 4 else 1
        assert LEAST <= share <= most, (float(truth), float(misses), share)


@pytest.mark.parametrize(("n", "least"), [(4, 0.95), (8, 0.95), (32, 0.94), (158, 0.94)])
def test_whole_sequences_without_exception_are_covered_whatever_their_proportion(n, least):
    """Sequences that are right or wrong as a whole are binomial: coverage is a finite sum."""
    right = torch.arange(n).expand(n + 1, n) < torch.arange(n + 1).unsqueeze(1)
    number = right.sum(1, keepdim=True).double()
    left_out = (number - right.double()) / (n - 1)
    low, high = proportion_ends(number[:, 0] / n, left_out, torch.full((n + 1, n), 7))
    truth = torch.arange(1, 2000).double().unsqueeze(1) / 2000
    chance = torch.as_tensor(binom.pmf(torch.arange(n + 1), n, truth))
    covered = (chance * ((low <= truth) & (truth <= high))).sum(1)
    assert covered.min() > least
    assert low[n].item() == pytest.approx(0.025 ** (1 / n))
    assert (low[0].item(), high[n].item()) == (0, 1)
    torch.testing.assert_close(low, 1 - high.flip(0))


# A ranking: average precision and its differences


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
    "nearly perfect": Text(0.08, 0.7, (6.0, 5.0)),
}


def sampled(text, n_sequences, generator):
    """Labels, the sequence of each token, and the scores of both detectors.

    Lengths, rates of matches and the quality of the detectors vary between sequences.
    """

    def normal(n):
        return torch.randn(n, generator=generator)

    usual = {4: 240, 8: 160}.get(n_sequences, 80)
    lengths = torch.randint(usual // 2, 3 * usual // 2, (n_sequences,), generator=generator)
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


def intervals(labels, sequences, scores, n_sequences):
    """The average precision of both detectors, and the difference."""
    first, second = (
        jackknifed_average_precision(s, labels, sequences, n_sequences) for s in scores
    )
    return first.interval, second.interval, first.minus(second)


def coverage(text, n_sequences, n_runs):
    """The share of texts, of at least 20 matches in 4 sequences, whose intervals have the truth."""
    generator = torch.Generator().manual_seed(n_sequences)
    labels, sequences, scores = sampled(text, 20_000, generator)
    one = torch.zeros_like(sequences)
    a, b = (jackknifed_average_precision(s, labels, one, 1).value for s in scores)
    hits = []
    while len(hits) < n_runs:
        labels, sequences, scores = sampled(text, n_sequences, generator)
        if int(labels.sum()) >= 20 and len(sequences[labels].unique()) >= 4:
            found = intervals(labels, sequences, scores, n_sequences)
            hits.append([i.low <= t <= i.high for i, t in zip(found, (a, b, a - b), strict=True)])
    return torch.tensor(hits).double().mean(dim=0)


@pytest.mark.parametrize("n", [4, 8, 32])
def test_intervals_of_average_precision_and_differences_cover_the_truth(n):
    """Few texts of each sort: the slow test has the bounds of each."""
    found = torch.stack([coverage(TEXTS[name], n, 500) for name in ("even", "bursty", "sharp")])
    assert found.min() >= 0.91
    for share in found.mean(dim=0).tolist():
        assert LEAST <= share <= (MOST_OF_FOUR if n == 4 else MOST)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 8, 32, 158])
@pytest.mark.parametrize("text", TEXTS)
def test_intervals_of_average_precision_cover_it_in_texts_of_every_sort(n, text):
    found = coverage(TEXTS[text], n, 2000 if n < 158 else 1000)
    assert found.min() >= LEAST, found
    if text == "nearly perfect":  # its first detector ranks half of the small texts perfectly
        found = found[1:]
    assert found.max() <= (MOST_OF_FOUR if n == 4 else MOST), found


# By hand


def test_the_interval_by_hand():
    """Left out values 0.6, 0.5 and 0.4: a standard error of 0.1155, 0.462 in log odds."""
    found = Jackknifed(0.5, torch.tensor([0.6, 0.5, 0.4]), torch.tensor([5, 5, 5])).interval
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
    found = Jackknifed(0.5, left_out, torch.ones(50).long())
    assert found.interval.high == pytest.approx(high)


def test_so_do_few_with_most_of_the_tokens():
    """Weights 3, 3, 1, 1, 1 are those of 81 / 21 equal sequences, half of the way to 5."""
    left_out = torch.tensor([0.6, 0.4, 0.6, 0.4, 0.5], dtype=torch.float64)
    error = math.sqrt(4 / 5 * 0.04) / 0.25
    freedom = 0.5 * 81 / 21 + 0.5 * 5 - 1
    high = 1 / (1 + math.exp(-student_quantile(freedom) * error))
    found = Jackknifed(0.5, left_out, torch.tensor([3, 3, 1, 1, 1]))
    assert found.interval.high == pytest.approx(high)


def test_tokens_matter_less_the_fewer_the_exceptions():
    """The same weights and a proportion of 0.9: nine tenths of the way from 81 / 21 to 5."""
    left_out = 0.4 + torch.tensor([0.6, 0.4, 0.6, 0.4, 0.5], dtype=torch.float64)
    weights = torch.tensor([3, 3, 1, 1, 1])
    quantile = student_quantile(0.1 * 81 / 21 + 0.9 * 5 - 1)
    high = 9 / (9 + math.exp(-quantile * math.sqrt(4 / 5 * 0.04) / 0.09))
    assert Jackknifed(0.9, left_out, weights).interval.high == pytest.approx(high)
    with_empty = torch.cat([left_out, left_out[-1:]]), torch.cat([weights, 0 * weights[:1]])
    high = 9 / (9 + math.exp(-quantile * math.sqrt(5 / 6 * 0.04) / 0.09))
    assert Jackknifed(0.9, *with_empty).interval.high == pytest.approx(high)


def test_student_quantiles_are_those_of_the_distribution():
    for freedom in (1, 2.5, 30, 1e6):
        assert student_quantile(freedom) == pytest.approx(student.ppf(0.975, freedom))


def test_nothing_missed_leaves_one_end_by_the_rule_of_three():
    """Two equal sequences and an empty one: of a precision of sqrt(0.025), 2.5 % show no miss."""
    counts = torch.tensor([3, 3, 0])
    low = math.sqrt(0.025)
    assert jackknifed_ratio(counts, counts).interval == pytest.approx((1, low, 1))
    none = jackknifed_ratio(0 * counts, counts)
    assert none.interval == pytest.approx((0, 0, 1 - low))
    whole = jackknifed_ratio(counts, counts)
    half = Jackknifed(0.5, torch.tensor([0.4, 0.6, 0.5]), counts)
    found, (_, half_low, half_high) = whole.minus(half), half.interval
    assert found.low == pytest.approx(0.5 - math.hypot(1 - low, half_high - 0.5))
    assert found.high == pytest.approx(0.5 + 0.5 - half_low)


@pytest.mark.parametrize(("value", "left_out"), [(0.5, [0.5] * 3), (0.5, [0.5, math.nan, 0.4]),
                                                 (math.nan, [math.nan] * 3)])  # fmt: skip
def test_a_proportion_that_does_not_vary_or_exist_has_no_interval(value, left_out):
    counts = torch.tensor([1, 1, 1])
    one = Jackknifed(value, torch.tensor(left_out), counts)
    other = Jackknifed(0.5, torch.tensor([0.5, 0.4, 0.6]), counts)
    for found in (one.interval, one.minus(other), other.minus(one)):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    assert one.minus(other).value == pytest.approx(value - 0.5, nan_ok=True)


def test_paired_differences_are_narrower_than_the_sum_of_both():
    left_out, ones = torch.linspace(0.4, 0.6, 9, dtype=torch.float64), torch.ones(9).long()
    first, second = Jackknifed(0.5, left_out, ones), Jackknifed(0.4, left_out - 0.1, ones)
    paired = first.minus(second)
    assert paired.value == pytest.approx(0.1)
    assert paired.high - paired.low < 0.2 * (first.interval.high - first.interval.low)
    other_way = second.minus(first)
    assert (other_way.low, other_way.high) == pytest.approx((-paired.high, -paired.low))
