"""The search against the whole matrix of scores, in every path: compiled and torch's own."""

import pytest
import torch

from dictlearn.kernels import bounded, compiled, fastest, processor, rounding, search, tiles
from dictlearn.kernels.bounded import bounded_top_k, dense_top_k
from dictlearn.kernels.native import is_native
from dictlearn.kernels.rounding import bfloat16_tiles, int8_tiles
from dictlearn.kernels.search import (
    above,
    batch_top_k,
    exact_top_k,
    int8_top_k,
    positive_if_sparse,
)

EXACTLY = {"rtol": 0, "atol": 0}
DTYPES = (torch.float32, torch.float64, torch.bfloat16)  # the last has no compiled path


def problem(n=37, d=8, n_features=70, dtype=torch.float32, seed=0):
    """Rows, encoder and biases of so few bits that float32 sums them exactly, in any order.

    The rows have more bits than bfloat16.
    """
    make = torch.Generator().manual_seed(seed)
    shapes, places = ((n, d), (d, n_features), (n_features,)), (512, 64, 512)
    numbers = [torch.randn(shape, generator=make) for shape in shapes]
    return tuple((x * p).round().div(p).to(dtype) for x, p in zip(numbers, places, strict=True))


def assert_equal(a, b):
    """Equal to the bit, but for bfloat16, which rounds each score."""
    torch.testing.assert_close(a, b, **({} if a.dtype == torch.bfloat16 else EXACTLY))


ROUNDED = {"bfloat16": bfloat16_tiles} | ({"int8": int8_tiles} if processor.has_int8() else {})


@pytest.fixture(autouse=True, params=["plain", *ROUNDED])
def _small_tiles(monkeypatch, request):
    """Every way to search, computed correctly, if slowly, on every processor."""
    monkeypatch.setattr(tiles, "_TILE", 256)
    monkeypatch.setattr(tiles, "_MIN_ROWS", 5)
    monkeypatch.setattr(rounding, "_FIRST_ROWS", 3)
    monkeypatch.setattr(bounded, "_MOST_CANDIDATES", 1.0)
    monkeypatch.setattr(
        fastest,
        "rounding",
        lambda x, W, k=0: (
            ROUNDED.get(request.param)
            if is_native(x) and x.dtype == W.dtype == torch.float32 and len(x)
            else None
        ),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 5, 37])
@pytest.mark.parametrize(("n_features", "k"), [(1, 1), (70, 1), (70, 7), (70, 70), (600, 130)])
def test_top_k_finds_the_largest_scores(dtype, n, n_features, k):
    x, W, b = problem(n=n, n_features=n_features, dtype=dtype)
    top = exact_top_k(x, W, b, k)
    scores = torch.addmm(b, x, W)
    expected = scores.topk(k, dim=1).values
    assert_equal(top.scores.sort(dim=1, descending=True).values, expected)
    assert_equal(scores.gather(1, top.features), top.scores)
    distinct = top.features.sort(dim=1).values.diff(dim=1)
    assert (distinct > 0).all()


def test_of_equal_scores_exactly_k_are_kept_and_the_first_of_them():
    x, b = torch.ones(3, 1), torch.zeros(100)
    W = torch.zeros(1, 100)
    W[0, 90] = 1.0
    features = exact_top_k(x, W, b, 4).features
    assert features.tolist() == [[0, 1, 2, 90]] * 3
    assert exact_top_k(x, W - 1, b, 1).features.tolist() == [[90]] * 3
    assert exact_top_k(x, W * 0, b, 1).features.tolist() == [[0]] * 3


@pytest.mark.parametrize("n_nan", [1, 130, 990])
def test_the_bound_of_scores_is_that_of_numbers(n_nan):
    row = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    row[:n_nan] = torch.nan
    bound = compiled.kth_bound(row.numpy(), 8, 128)
    assert 8 <= (row >= bound).sum() < 16


def test_one_huge_score_leaves_the_bound_of_others_tight():
    row = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    row[500] = 1e5
    assert 8 <= (row >= compiled.kth_bound(row.numpy(), 8, 128)).sum() < 20


def test_the_bound_of_one_score_is_the_largest():
    row = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy()
    assert compiled.kth_bound(row, 1, 128) == row.max()
    assert 8 <= (row >= compiled.kth_bound(row, 8, 128)).sum() < 16


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", [0.0, 2.5, 1e6])
@pytest.mark.parametrize("n", [0, 1, 37])
def test_above_finds_every_score_over_the_bound(dtype, bound, n):
    x, W, b = problem(n=n, dtype=dtype)
    scores = torch.addmm(b, x, W)
    found = above(x, W, b, bound)
    assert_equal(found.to_dense(), torch.where(scores > bound, scores, 0.0))
    assert found.l0().tolist() == (scores > bound).sum(dim=1).tolist()


def test_positive_scores_are_left_to_a_dense_step_where_they_are_many():
    x, W, b = problem()
    assert positive_if_sparse(x, W, b, 0.2) is None
    found = positive_if_sparse(x, W, b - 10, 0.2)
    assert_equal(found.to_dense(), torch.addmm(b - 10, x, W).relu())


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("k", [1, 3, 30])
def test_batch_top_k_finds_the_largest_of_the_batch(dtype, k):
    x, W, b = problem(dtype=dtype)
    found = batch_top_k(x, W, b, k)
    expected = torch.addmm(b, x, W).flatten().topk(37 * k).values
    assert_equal(found.values.sort(descending=True).values, expected.clamp_min(0.0))


def test_batch_top_k_is_not_misled_by_its_sample(monkeypatch):
    monkeypatch.setattr(search, "_SAMPLE_ROWS", 2)
    x, W, _ = problem()
    x[:2] *= 128  # the sampled rows promise far larger scores than the others have
    found = batch_top_k(x, W, torch.zeros(70), 3)
    expected = (x @ W).flatten().topk(37 * 3).values
    assert_equal(found.values.sort(descending=True).values, expected)


def test_batch_top_k_keeps_no_score_that_is_not_positive():
    x, W, _ = problem()
    b = torch.full((70,), -1e3)
    b[4] = 1e3
    found = batch_top_k(x, W, b, 2)
    assert found.indices.tolist() == [4] * 37


def test_ties_in_a_batch_are_cut_to_the_budget():
    found = batch_top_k(torch.ones(6, 1), torch.ones(1, 8), torch.zeros(8), 2)
    assert found.values.tolist() == [1.0] * 12


@pytest.mark.parametrize(
    ("n", "n_features", "k"),
    [(0, 70, 3), (1, 70, 3), (37, 70, 60), (37, 600, 5)],
)
def test_int8_search_scores_what_it_finds_exactly(n, n_features, k):
    x, W, b = problem(n=n, n_features=n_features, d=16)
    top = int8_top_k(x, W, b, k)
    scores = torch.addmm(b, x, W)
    assert_equal(scores.gather(1, top.features), top.scores)
    true = scores.topk(k, dim=1).indices.unsqueeze(1)
    recall = (top.features.unsqueeze(2) == true).any(dim=2).float().mean()
    assert n == 0 or recall > 0.99


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bounds_leave_nothing_out_however_close_the_scores(scale):
    """Scores that differ by less than bfloat16 can tell, and features of very unequal norms."""
    make = torch.Generator().manual_seed(0)
    x = scale * torch.randn(64, 96, generator=make)
    W = torch.randn(96, 1, generator=make) + 3e-3 * torch.randn(96, 3000, generator=make)
    W[:, ::7] *= torch.logspace(-3, 0.5, len(W[0, ::7]))
    b = scale * torch.randn(3000, generator=make)
    exact = torch.addmm(b.double(), x.double(), W.double())
    found = exact.gather(1, exact_top_k(x, W, b, 16).features).sort(dim=1).values
    true = exact.topk(16, dim=1).values.sort(dim=1).values
    # By how much a sum in float32 can be wrong, whatever its order: n eps |x| . |w|.
    rounding = 98 * 2**-24 * torch.addmm(b.abs(), x.abs(), W.abs()).max().item()
    torch.testing.assert_close(found, true, rtol=0, atol=2 * rounding)
    over = above(x, W, b, 2.0 * scale).to_dense() != 0
    differs = over != (exact > 2.0 * scale)
    assert ((exact - 2.0 * scale).abs()[differs] <= rounding).all()


def awkward():
    """Rows and features of every awkward kind, as [n, d_in] and [feature, d_in]."""
    make = torch.Generator().manual_seed(1)
    x, weights = ((torch.randn(n, 130, generator=make) * 16).round() / 16 for n in (40, 300))
    x[0] = 0
    x[1] = 1e-40  # denormal
    x[2] *= 2.0**-100  # squares vanish
    x[3, 7] = 2.0**20  # one entry hides the others
    x[4] = x[4, :1]
    x[5:9] *= torch.tensor([2.0**60, 2.0**-60, -1.0, 0.5]).unsqueeze(1)
    weights[0] = 0
    weights[10:200] = weights[10]  # equal scores
    weights[200] *= 2.0**-100
    weights[201, 3] = 2.0**10
    return x, weights


def test_awkward_rows_and_features_are_found_like_all_others():
    x, weights = awkward()
    b = torch.zeros(300)
    summed_exactly = [i not in (1, 3) for i in range(len(x))]
    for k in (1, 7, 150):
        found, plain = exact_top_k(x, weights.T, b, k), dense_top_k(x, weights.T, b, k)
        assert torch.equal(found.features[summed_exactly], plain.features[summed_exactly])
        torch.testing.assert_close(found.scores, plain.scores, rtol=1e-5, atol=1e-30)
    over = above(x, weights.T, b, 1.0).to_dense() != 0
    assert torch.equal(over, x @ weights.T > 1.0)


@pytest.mark.parametrize("place", [0, 30])
@pytest.mark.parametrize("rounded", [None, *ROUNDED.values()], ids=["all scores", *ROUNDED])
def test_a_score_that_is_no_number_hides_no_other(rounded, place):
    x, W, b = problem(n=6, d=9)
    W[0].clamp_(min=0.5)
    W[2, place] = torch.nan
    x[4, 0], x[5, 0] = torch.nan, torch.inf
    found = bounded_top_k(x, W, b, 5, rounded) if rounded else dense_top_k(x, W, b, 5)
    numbers = [j for j in range(70) if j != place]
    expected = torch.addmm(b, x, W)[:, numbers].topk(5, dim=1).values
    rows = [0, 1, 2, 3, 5]
    assert_equal(found.scores.sort(dim=1, descending=True).values[rows], expected[rows])
    assert found.scores[4].tolist() == [0.0] * 5
