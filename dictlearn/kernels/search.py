"""Finding the features with the best scores `x @ W + b`, without keeping the other scores.

The scores of a tile of rows are computed, searched while they are in cache, and overwritten by
the next tile's: no [n, feature] matrix is ever made. On the CPU the search is compiled
(`kernels.compiled`); elsewhere, and in other dtypes, the same is written in torch.
Nothing here carries a gradient: `kernels.scores` gives the few scores found theirs.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import compiled, fastest, processor
from dictlearn.kernels.bounded import (
    Top,
    bounded_above,
    bounded_top_k,
    dense_above,
    dense_top_k,
    rescored_top_k,
)
from dictlearn.kernels.native import is_native
from dictlearn.kernels.rounding import MOST_WIDE

_SAMPLE_ROWS = 64
"""Rows that stand for a batch where something about all its scores is guessed or measured."""


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

    Where products of rounded factors are faster, they bound every score from both sides, and only
    scores that the bounds do not exclude are computed (`fastest.rounding`).
    """
    tiles = fastest.rounding(x, W, k)
    return bounded_top_k(x, W, b, k, tiles) if tiles else dense_top_k(x, W, b, k)


@torch.no_grad()
def int8_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> Top:
    """The same among candidates that an int8 product finds, by their exact scores.

    Rows and features are rounded to about 8 bits in units of their own largest entry. Twice as many
    features as asked for become candidates, so that one of the k best is missed only where
    rounding moves it below all of those: a training run logs how often (`recall`). Whether that
    takes less time than an exact search depends on the processor (`Timings.int8_search_pays`). On
    devices and in dtypes without such a product, the search is exact.
    """
    in_float32 = is_native(x) and x.dtype == W.dtype == torch.float32
    has_product = processor.has_int8() and x.shape[1] <= MOST_WIDE
    return (rescored_top_k if in_float32 and has_product and len(x) else exact_top_k)(x, W, b, k)


@torch.no_grad()
def above(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    bound: float = 0.0,
    k: int = 0,
) -> SparseActs:
    """The entries of `x @ W + b` that are greater than `bound`: in the mean row about `k`, if that
    is known."""
    tiles = fastest.rounding(x, W, k)
    return bounded_above(x, W, b, bound, tiles) if tiles else dense_above(x, W, b, bound)


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
        found = above(x, W, b, bound, k)
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
