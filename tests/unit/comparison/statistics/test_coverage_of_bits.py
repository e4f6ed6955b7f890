"""Intervals of bits contain the bits of much text, though tables are fitted to little of it."""

import pytest
import torch

from dictlearn.comparison.statistics.intervals import difference, interval, pooled, resampled_metric
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.bits import bits_unseen, level_code, numbers_active, support_code

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

COVERED = {4: 0.92, 8: 0.93, 32: 0.93}
"""The least part of 95 % intervals that has to contain the truth, by number of sequences."""
N_PARTS = 16


def texts(n_runs, n, densities, n_rows, seed):
    """Active features of the rows of `n_runs` texts: how often each is varies between sequences."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_runs):
        own = 0.7 * torch.randn(n, 1, len(densities), generator=generator)
        p = torch.sigmoid(torch.logit(densities) + own).expand(-1, n_rows, -1)
        yield torch.bernoulli(p, generator=generator)


def sums_of(rows):
    """The sums of `[sequence, row, feature]`, as `evaluate` keeps them, and the bits unseen."""
    n, n_rows, n_features = rows.shape
    acts = SparseActs.from_dense(rows.flatten(0, 1))
    parts = torch.arange(n) % N_PARTS
    firings = torch.zeros(N_PARTS, n_features).index_add_(0, parts, rows.sum(dim=1)).long()
    flat = parts.repeat_interleave(n_rows) * (n_features + 1) + numbers_active(acts, 1)[:, 0]
    numbers = flat.bincount(minlength=N_PARTS * (n_features + 1)).view(N_PARTS, 1, -1)
    unseen = bits_unseen(firings, numbers)
    code = support_code(firings.sum(0), numbers.sum(0)).longer(unseen)
    bits = code.lengths(acts).view(n, n_rows).sum(dim=1)
    return {"rows": torch.full_like(bits, n_rows), "support_bits": bits}, unseen


FEW = torch.tensor([0.02, 0.05, 0.1, 0.3, 0.5, 0.8])
MANY = 0.6 * torch.arange(1, 601) ** -0.8


@pytest.mark.parametrize("n", COVERED)
def test_intervals_of_the_support_of_few_features_cover_it(n):
    metric = resampled_metric("support_bits")
    truth = pooled(metric, sums_of(next(texts(1, 20_000, FEW, 64, seed=1)))[0])
    found = [interval(metric, sums_of(rows)[0]) for rows in texts(1500, n, FEW, 64, seed=n)]
    share = sum(i.low <= truth <= i.high for i in found) / len(found)
    assert COVERED[n] <= share <= 0.97


@pytest.mark.parametrize("n", COVERED)
def test_so_do_those_of_many_features_most_of_which_are_seldom_active(n):
    """In a few sequences, hundreds are active once: fitted tables alone are too short for others.

    Without the bits unseen, the intervals of 44, 56 and 86 % of texts would have the truth.
    """
    metric, rows_each = resampled_metric("support_bits"), 32
    truth = pooled(metric, sums_of(next(texts(1, 2000, MANY, rows_each, seed=1)))[0])
    contained, without = [], []
    for rows in texts(300, n, MANY, rows_each, seed=n):
        sums, unseen = sums_of(rows)
        found = interval(metric, sums)
        contained.append(found.low <= truth <= found.high)
        without.append(found.low - unseen <= truth <= found.high - unseen)
    assert COVERED[n] - 0.02 <= sum(contained) / 300 <= 0.985
    assert sum(without) / 300 < 0.9


def test_bits_unseen_by_hand():
    """Two features by turns: 1 bit in all, none within either half, so 1/2 of 1 bit for each."""
    firings, numbers = torch.tensor([[4, 0], [0, 4]]), torch.tensor([[[0, 4, 0]], [[0, 4, 0]]])
    assert bits_unseen(firings, numbers) == 1.0
    assert bits_unseen(firings[:1], numbers[:1]) == 0, "of a single part, nothing is known"
    empty = bits_unseen(torch.cat([firings, 0 * firings]), torch.cat([numbers, 0 * numbers]))
    assert empty == 1.0, "parts without rows do not count"
    assert (
        bits_unseen(torch.tensor([[2, 2], [4, 4]]), torch.tensor([[[0, 4, 0]], [[0, 8, 0]]])) == 0
    )


def priced(n_runs, n, seed):
    """Sums of quantized dictionaries: two prices of the same support, by one step and another.

    How many coefficients a sequence has, and how large they are, varies. Levels are counted, and
    coded by their frequencies in all sequences of an evaluation, as `evaluate` does.
    """
    generator = torch.Generator().manual_seed(seed)

    def around(mean, spread):
        noise = torch.randn(n_runs, n, generator=generator, dtype=torch.float64)
        return mean * torch.exp(spread * noise)

    rows = torch.randint(40, 129, (n_runs, n), generator=generator).double()
    active, size = rows * around(12, 0.15), around(2.0, 0.15)
    support = active * around(6, 0.05)
    found = []
    for step in (1.0, 1.3):
        p = torch.exp(-torch.arange(-14.0, 15).abs() * step / size[..., None])
        p[..., 14] = 0  # active coefficients have a level
        counts = torch.poisson(active[..., None] * p / p.sum(-1, keepdim=True), generator=generator)
        code = torch.stack([level_code(run.sum(0).long()) for run in counts])
        bits = torch.where(counts > 0, counts * code[:, None], 0.0).sum(-1)
        found.append({"rows": rows, "support_bits": support, "bits": support + bits})
    return found


@pytest.mark.parametrize("n", COVERED)
@pytest.mark.parametrize("name", ["coefficient_bits", "bits"])
def test_intervals_of_coefficients_at_a_step_and_of_what_another_step_saves_cover_them(name, n):
    metric = resampled_metric(name)
    many = [{key: s[0] for key, s in sums.items()} for sums in priced(1, 100_000, seed=1)]
    truth = [pooled(metric, sums) for sums in many]
    found, contained = priced(2500, n, seed=n), []
    for run in range(2500):
        first, second = ({key: s[run] for key, s in sums.items()} for sums in found)
        alone, saved = interval(metric, first), difference(metric, second, first)
        contained.append([alone.low <= truth[0] <= alone.high,
                          saved.low <= truth[1] - truth[0] <= saved.high])  # fmt: skip
    for share in torch.tensor(contained).double().mean(dim=0).tolist():
        assert COVERED[n] <= share <= 0.97
