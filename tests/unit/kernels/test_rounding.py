"""Rounded products: how far they are from the exact ones, and where they do not pay."""

import pytest
import torch

from dictlearn.kernels import bounded, processor, rounding, tiles
from dictlearn.kernels.rounding import bfloat16_tiles, int8_tiles

ROUNDED = {"bfloat16": bfloat16_tiles} | ({"int8": int8_tiles} if processor.has_int8() else {})
each = pytest.mark.parametrize("rounded", ROUNDED.values(), ids=ROUNDED)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "_TILE", 256)
    monkeypatch.setattr(tiles, "_MIN_ROWS", 5)
    monkeypatch.setattr(rounding, "_FIRST_ROWS", 3)


def estimates(tile):
    is_bits = tile.products.dtype == torch.uint16
    products = tile.products.view(torch.bfloat16) if is_bits else tile.products
    return products.double() * tile.x_scales.double().unsqueeze(1)


@each
def test_bounds_hold_where_a_rounding_points_along_the_other_factor(rounded):
    """There they are attained, but for what float32 loses."""
    x = torch.randn(20, 140, generator=torch.Generator().manual_seed(0))
    x *= torch.logspace(-12, 12, 20).unsqueeze(1)
    x[3, 5] *= 300
    x[4] = 1e-21  # the square is too small for float32
    as_rounded = torch.cat([estimates(tile) for _, tile in rounded(x, torch.eye(140))])
    errors = (x - as_rounded).float()
    others = torch.cat([errors / errors.norm(dim=1, keepdim=True).clamp_min(1e-15), errors, x])
    attained = 0.0
    for a, c in ((x, others), (others, x)):
        for rows, tile in rounded(a, c):
            slack = torch.outer(tile.x_errors.double(), tile.w_norms.double())
            slack += torch.outer(tile.x_norms.double(), tile.w_errors.double())
            slack += tile.precision * estimates(tile).abs()
            off = (a[rows].double() @ c.double().T - estimates(tile)).abs()
            assert (off <= slack).all()
            attained = max(attained, (off / slack).max().item())
    assert attained > 0.3


@each
@pytest.mark.parametrize("most", [0.0, 1.0])
def test_where_bounds_exclude_too_few_the_rest_is_searched_by_all_scores(
    monkeypatch, most, rounded
):
    monkeypatch.setattr(bounded, "_MOST_CANDIDATES", most)
    make = torch.Generator().manual_seed(0)
    x, W, b = (
        (torch.randn(s, generator=make) * 64).round() / 64 for s in ((40, 8), (8, 70), (70,))
    )
    for found, all_scores in zip(
        bounded.bounded_top_k(x, W, b, 7, rounded), bounded.dense_top_k(x, W, b, 7), strict=True
    ):
        assert torch.equal(found, all_scores)
    found, all_scores = (
        bounded.bounded_above(x, W, b, 2.0, rounded),
        bounded.dense_above(x, W, b, 2.0),
    )
    assert torch.equal(found.to_dense(), all_scores.to_dense())
    assert torch.equal(found.offsets, all_scores.offsets)


@each
@pytest.mark.parametrize("margin", [-3.0, 0.0, 3.0])
def test_the_margin_changes_no_result(monkeypatch, margin, rounded):
    """A bound that fewer than k scores reach is noticed, and a lower one taken."""
    monkeypatch.setattr(bounded, "_MARGIN", margin)
    monkeypatch.setattr(bounded, "_MOST_CANDIDATES", 1.0)
    repeated, reaching = [], bounded._reaching
    monkeypatch.setattr(bounded, "_reaching", lambda *a: repeated.append(a) or reaching(*a))
    make = torch.Generator().manual_seed(0)
    x, W, b = (
        (torch.randn(s, generator=make) * 64).round() / 64 for s in ((40, 200), (200, 90), (90,))
    )
    x[7] = torch.nan
    found, plain = bounded.bounded_top_k(x, W, b, 7, rounded), bounded.dense_top_k(x, W, b, 7)
    assert torch.equal(found.features, plain.features)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-6, atol=1e-6)
    assert margin == 0.0 or bool(repeated) == (margin < 0)
