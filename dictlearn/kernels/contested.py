"""Close calls among the best scores, decided as by a product of all scores.

A score computed by itself and the same score from a product of matrices add their terms in
different orders, so their last bits differ. Where the k-th and the next score of a row are closer
than that, both orders would keep different features. There the scores in question, of few rows and
few features, are taken from a product of just these: libraries for such products add the terms of
an entry in one order, whichever other entries there are, unless rows or columns are very few.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import compiled_candidates
from dictlearn.kernels.native import run
from dictlearn.kernels.rounding import RoundedTile

_EPS = torch.finfo(torch.float32).eps
_LEAST = 16
"""Rows and columns of a product below which libraries may use loops with another order."""


def least_of_best(
    scores: Float[Tensor, "n k"],
    features: Int[Tensor, "n k"],
    n_found: Int[Tensor, " n"],
    tile: RoundedTile,
    b: Float[Tensor, " feature"],
    d: int,
) -> Float[Tensor, " n"]:
    """A bound that these `k` scores of a row, of `d` terms, reach in whatever order they are added.

    Minus infinity where only fewer were found.
    """
    out = b.new_empty(len(scores))
    run(compiled_candidates.least_of_best, scores, features, n_found, *_slack(tile, d), b, out)
    return out


def decided(
    candidates: SparseActs,
    tile: RoundedTile,
    x: Float[Tensor, "n d_in"],
    weights: Float[Tensor, "feature d_in"],
    b: Float[Tensor, " feature"],
    kept: Float[Tensor, "n k"],
) -> tuple[Int[Tensor, " m"], SparseActs]:
    """The rows that may have close calls, and their candidates: those that are among the k best by
    one order of sums and may not be by another with their scores by a product of matrices.

    `kept` are the k best scores of each row as they are.
    """
    is_close, slack = torch.empty(len(candidates), dtype=torch.bool), _slack(tile, x.shape[1])
    run(compiled_candidates.are_close, candidates.offsets, candidates.indices, candidates.values,
        *slack, b, kept, is_close)  # fmt: skip
    rows = is_close.nonzero()[:, 0]
    own = candidates.select(rows)
    contested = torch.zeros(len(own.values), dtype=torch.bool)
    relative, x_norms, w_norms = slack
    run(compiled_candidates.close_calls, own.offsets, own.indices, own.values,
        relative, x_norms[rows], w_norms, b, kept.shape[1], contested)  # fmt: skip
    entries = contested.nonzero()[:, 0]
    if not len(entries):
        return rows, own
    some_rows, row = own.rows()[entries].unique(return_inverse=True)
    some_features, column = own.indices[entries].unique(return_inverse=True)
    some_rows, some_features = _enough(rows[some_rows]), _enough(some_features)
    scores = torch.addmm(b[some_features], x[some_rows], weights[some_features].T)
    return rows, own.with_values(own.values.index_copy(0, entries, scores[row, column]))


def _slack(tile: RoundedTile, d: int) -> tuple[float, Tensor, Tensor]:
    """By how much two sums of the `d` terms of a score may differ, in whatever orders.

    Each is off by at most `(d + 1) u (|x| |w| + |b|)`, with `u` half of the machine epsilon
    (Higham 2002, section 3.1): a factor, and the norms of rows and weights.
    """
    return (d + 8) * _EPS, tile.x_norms + tile.x_errors, tile.w_norms


def _enough(numbers: Int[Tensor, " m"]) -> Int[Tensor, " m_or_more"]:
    """The same numbers, repeated until there are enough for a product of matrices."""
    return numbers[torch.arange(max(len(numbers), _LEAST)) % len(numbers)]
