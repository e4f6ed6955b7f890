"""Close calls: both exact searches keep the same features, whatever the order of sums."""

import pytest
import torch

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import bounded, contested, processor
from dictlearn.kernels.bounded import bounded_top_k, dense_top_k
from dictlearn.kernels.rounding import bfloat16_tiles, int8_tiles

N_AT_ONCE, WIDTH, N_FEATURES = 25_000, 130, 512
needs_int8 = pytest.mark.skipif(not processor.has_int8(), reason="torch has no int8 product here")


@pytest.mark.parametrize("k", [1, 4])
def test_scores_that_are_off_by_rounding_are_told_apart(k):
    """Sums of few bits, each given with an error that another order of sums might have made."""
    make = torch.Generator().manual_seed(0)
    x, weights = ((torch.randn(n, 9, generator=make) * 4).round() / 4 for n in (40, 70))
    b = (torch.randn(70, generator=make) * 4).round() / 4
    exact = torch.addmm(b, x, weights.T)
    ((_, tile),) = bfloat16_tiles(x, weights)
    everything = SparseActs(
        torch.arange(0, 40 * 70 + 1, 70), torch.arange(70).repeat(40), exact.flatten(), 70
    )
    norms = torch.outer(x.norm(dim=1), weights.norm(dim=1)) + b.abs()
    around = (9 + 1) * torch.finfo(torch.float32).eps * norms.flatten()  # of two sums
    off = everything.with_values(
        everything.values + around * torch.rand(len(around), generator=make).sub(0.5)
    )
    top = [_top(acts, k) for acts in (everything, off)]
    assert not torch.equal(*top), "there are close calls"
    best = off.values.view(40, 70).topk(k, dim=1).values
    rows, own = contested.decided(off, tile, x, weights, b, best)
    assert 0 < len(rows) < 40, "rows in which all is clear are left alone"
    found = off.values.view(40, 70).clone()
    found[rows] = own.values.view(-1, 70)
    assert torch.equal(_top(off.with_values(found.flatten()), k), top[0])
    changed = found != off.values.view(40, 70)
    assert 0 < changed.sum() < 400, "only scores near the k-th are computed again"
    assert torch.equal(found[changed], exact[changed])


def _top(acts, k):
    """The places of the k largest of each row in order, of equal ones the first."""
    best = acts.values.view(len(acts), -1).argsort(dim=1, descending=True, stable=True)
    return best[:, :k].sort(dim=1).values


def test_what_is_clear_is_left_alone():
    x, weights, b = torch.eye(16)[:8], torch.eye(16), torch.zeros(16)
    ((_, tile),) = bfloat16_tiles(x, weights)
    acts = SparseActs.from_dense(torch.eye(16)[:8] + 2)
    rows, own = contested.decided(acts, tile, x, weights, b, torch.full((8, 1), 3.0))
    assert len(rows) == len(own.values) == 0


def gaussian(x, weights, make):
    """Nothing awkward."""


def equal(x, weights, make):
    """Features that occur three times."""
    weights[:] = weights[:170].repeat(4, 1)[:N_FEATURES]


def near(x, weights, make):
    """Features that differ from others by less than products in float32 can tell."""
    noise = torch.randn(N_FEATURES, WIDTH, generator=make)
    weights[:] = weights[:60].repeat(9, 1)[:N_FEATURES] + 1e-7 * noise


def zero(x, weights, make):
    """Rows of zeros."""
    x[::3] = 0


def huge(x, weights, make):
    """A feature that is far larger than all others, and a row that is."""
    weights[300] *= 2.0**40
    x[5] *= 2.0**40


def denormal(x, weights, make):
    """Rows smaller than the least normal number."""
    x[::2] *= 1e-40


KINDS = (gaussian, equal, near, zero, huge, denormal)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rounded", "n_batches"),
    [pytest.param(int8_tiles, 7, marks=needs_int8, id="int8"), pytest.param(bfloat16_tiles, 1)],
)
def test_a_million_rows_are_searched_alike(monkeypatch, kind, rounded, n_batches):
    """On random and awkward rows: 1,050,000 by int8 products, and 150,000 by bfloat16 ones."""
    monkeypatch.setattr(bounded, "_MOST_CANDIDATES", 1.0)
    make = torch.Generator().manual_seed(KINDS.index(kind))
    for _ in range(n_batches):
        x = torch.randn(N_AT_ONCE, WIDTH, generator=make)
        weights = torch.randn(N_FEATURES, WIDTH, generator=make)
        b = torch.randn(N_FEATURES, generator=make)
        kind(x, weights, make)
        if kind is denormal:
            b.zero_()  # beside which the scores would all be equal
        found, expected = (
            bounded_top_k(x, weights.T, b, 8, rounded),
            dense_top_k(x, weights.T, b, 8),
        )
        differ = (found.features != expected.features).any(dim=1)
        assert not differ.any(), f"{int(differ.sum())} rows differ"
