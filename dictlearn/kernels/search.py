"""Finding the features with the best scores `x @ W + b`, without keeping the other scores.

The scores of a tile of rows are computed, searched while they are in cache, and overwritten by
the next tile's: no [n, feature] matrix is ever made. On the CPU the search is compiled
(`kernels.compiled`); elsewhere, and in other dtypes, the same is written in torch.
Nothing here carries a gradient: `kernels.scores` gives the few scores found theirs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import compiled, compiled_rounded
from dictlearn.kernels.native import is_native, run
from dictlearn.kernels.rounding import (
    RoundedTile,
    int8_products_,
    rounded_tiles,
    rounding_pays,
    to_int8,
)
from dictlearn.kernels.tiles import row_slices, score_tiles, tile_rows

_SAMPLE_ROWS = 64
"""Rows that stand for a batch where something about all its scores is guessed or measured."""


class Top(NamedTuple):
    """The `k` best features of each row, in no particular order."""

    scores: Float[Tensor, "n k"]
    features: Int[Tensor, "n k"]


Search: TypeAlias = Callable[[Tensor, Tensor, Tensor, int], Top]
"""A function of `x`, `W`, `b` and `k`: the `k` largest entries of each row of `x @ W + b`."""


@torch.no_grad()
def exact_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> Top:
    """The `k` largest entries of each row of `x @ W + b`, as from all scores.

    Where bfloat16 products are faster, a product of rounded factors bounds every score from both
    sides, and only scores that the bounds do not exclude are computed (`rounding_pays`).
    """
    top = _empty_top(x, k)
    if rounding_pays(x, W):
        weights, lanes = W.T.contiguous(), _lanes(k, len(b))
        for rows, rounded in rounded_tiles(x, weights):
            run(
                compiled_rounded.bounded_top_k, *rounded, x[rows], weights, b, k, lanes,
                top.scores[rows], top.features[rows],
            )  # fmt: skip
        return top
    for rows, scores in score_tiles(x, W, b):
        if is_native(scores):
            out = top.scores[rows], top.features[rows]
            run(compiled.top_k, scores, k, _lanes(k, len(b)), *out)
        else:
            top.scores[rows], top.features[rows] = scores.topk(k, dim=1, sorted=False)
    return top


@torch.no_grad()
def int8_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> Top:
    """The same among candidates that an int8 product finds, by their exact scores.

    Rows and features are rounded to 8 bits in units of their own largest entry. Twice as many
    features as asked for become candidates, so that one of the k best is missed only where
    rounding moves it below all of those: a training run logs how often (`recall`). Where
    `processor.multiplies_int8`, the product takes a quarter of the time of one in float32, or less;
    elsewhere the same is found, but not faster than exactly.
    """
    if not is_native(x, W, b):
        return exact_top_k(x, W, b, k)
    top = _empty_top(x, k)
    weights = W.T.contiguous()
    x8, x_scales = to_int8(x)
    w8, w_scales = to_int8(weights)
    n_candidates = min(len(b), max(2 * k, k + 16))
    lanes = _lanes(n_candidates, len(b))
    buffer = torch.empty(tile_rows(x, len(b)), len(b), dtype=torch.int32)
    for rows in row_slices(len(x), len(buffer)):
        products = buffer[: rows.stop - rows.start]
        int8_products_(products, x8[rows], w8)
        run(
            compiled_rounded.rescored_top_k, products, x_scales[rows], w_scales, x[rows],
            weights, b, k, n_candidates, lanes, top.scores[rows], top.features[rows],
        )  # fmt: skip
    return top


@torch.no_grad()
def above(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    bound: float = 0.0,
) -> SparseActs:
    """The entries of `x @ W + b` that are greater than `bound`."""
    if rounding_pays(x, W):
        weights = W.T.contiguous()
        parts = [
            _bounded_entries_above(rounded, x[rows], weights, b, bound)
            for rows, rounded in rounded_tiles(x, weights)
        ]
    else:
        parts = [_entries_above(scores, bound) for _, scores in score_tiles(x, W, b)]
    return SparseActs.concatenated(parts, len(b))


@torch.no_grad()
def positive_if_sparse(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    density: float,
) -> SparseActs | None:
    """The positive entries of `x @ W + b`; None if in the first rows `density` of all are."""
    sample = torch.addmm(b, x[:_SAMPLE_ROWS], W)
    if int((sample > 0).sum()) >= density * sample.numel():
        return None
    return above(x, W, b)


@torch.no_grad()
def batch_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> SparseActs:
    """The `n * k` largest positive entries of `x @ W + b`, wherever they are.

    Some rows say which scores may be among them; where they mislead, more are looked at.
    """
    wanted = k * len(x)
    sample = torch.addmm(b, x[:_SAMPLE_ROWS], W).flatten().float()
    for generosity in (1.5, 6.0, 24.0, math.inf):
        rank = min(generosity * k * len(x[:_SAMPLE_ROWS]), sample.numel())
        bound = max(0.0, _nth_largest(sample, int(rank))) if math.isfinite(generosity) else 0.0
        found = above(x, W, b, bound)
        if bound == 0.0 or len(found.indices) >= wanted:
            break
    return found if len(found.indices) <= wanted else _largest(found, wanted)


def _largest(acts: SparseActs, n: int) -> SparseActs:
    """The `n` largest entries; of those equal to the smallest kept, the first."""
    least = _nth_largest(acts.values, n)
    greater, equal = acts.values > least, acts.values == least
    return acts.where(greater | equal & (equal.cumsum(0) <= n - greater.sum()))


def _nth_largest(values: Float[Tensor, " m"], n: int) -> float:
    if is_native(values):
        return float(compiled.nth_largest(values.detach().numpy(), n))
    return float(values.topk(n, sorted=False).values.min())


def _entries_above(scores: Float[Tensor, "n feature"], bound: float) -> SparseActs:
    n, n_features = scores.shape
    if not is_native(scores):
        rows, features = (scores > bound).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=n)
        return SparseActs.from_counts(counts, features, scores[rows, features], n_features)
    counts = torch.empty(n, dtype=torch.long)
    run(compiled.count_above, scores, bound, counts)
    starts = counts.cumsum(0) - counts
    total = int(counts.sum())
    values, features = scores.new_empty(total), torch.empty(total, dtype=torch.long)
    run(compiled.collect_above, scores, bound, starts, values, features)
    return SparseActs.from_counts(counts, features, values, n_features)


def _bounded_entries_above(
    rounded: RoundedTile,
    x: Float[Tensor, "n d_in"],
    weights: Float[Tensor, "feature d_in"],
    b: Float[Tensor, " feature"],
    bound: float,
) -> SparseActs:
    counts = torch.empty(len(x), dtype=torch.long)
    run(compiled_rounded.bounded_count_above, *rounded, b, bound, counts)
    starts = counts.cumsum(0) - counts
    total = int(counts.sum())
    values, features = x.new_empty(total), torch.empty(total, dtype=torch.int32)
    out = starts, values, features
    run(compiled_rounded.bounded_collect_above, *rounded, x, weights, b, bound, *out)
    candidates = SparseActs.from_counts(counts, features.long(), values, len(b))
    return candidates.where(values > bound)


def _lanes(k: int, n_features: int) -> int:
    """The number of lanes that a row is divided into: see `compiled.kth_bound`."""
    return min(n_features, max(128, 8 * k))


def _empty_top(x: Float[Tensor, "n d_in"], k: int) -> Top:
    shape = (len(x), k)
    return Top(x.new_empty(shape), torch.empty(shape, dtype=torch.long, device=x.device))
