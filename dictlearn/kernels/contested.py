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
from dictlearn.kernels import compiled_rounded
from dictlearn.kernels.native import run
from dictlearn.kernels.rounding import RoundedTile

_EPS = torch.finfo(torch.float32).eps
_LEAST = 16
"""Rows and columns of a product below which libraries may use loops with another order."""


def slack(
    candidates: SparseActs, tile: RoundedTile, b: Float[Tensor, " feature"], d: int
) -> Float[Tensor, " nnz"]:
    """By how much two sums of the `d` terms of each score may differ, in whatever orders.

    Each is off by at most `(d + 1) u (|x| |w| + |b|)`, with `u` half of the machine epsilon
    (Higham 2002, section 3.1).
    """
    features = candidates.indices
    x_norms = (tile.x_norms + tile.x_errors).repeat_interleave(candidates.l0())
    return (d + 8) * _EPS * (x_norms * tile.w_norms[features] + b.abs()[features])


def decided(
    candidates: SparseActs,
    tile: RoundedTile,
    x: Float[Tensor, "n d_in"],
    weights: Float[Tensor, "feature d_in"],
    b: Float[Tensor, " feature"],
    k: int,
) -> SparseActs:
    """The candidates, those that may be among the k best by one order of sums and not by another
    with their scores by a product of matrices."""
    rows, values = candidates.rows(), candidates.values
    around = slack(candidates, tile, b, x.shape[1])
    lower, upper = values - around, values + around
    least, most = (_kth(candidates.with_values(bound), k)[rows] for bound in (lower, upper))
    is_in, contested = lower > most, (upper >= least) & (lower <= most)
    counts = candidates.row_sums((is_in | contested).to(values.dtype))
    contested &= (counts > k)[rows]
    if not contested.any():
        return candidates
    own_rows, features = rows[contested], candidates.indices[contested]
    some_rows, row = own_rows.unique(return_inverse=True)
    some_features, column = features.unique(return_inverse=True)
    some_rows, some_features = _enough(some_rows), _enough(some_features)
    scores = torch.addmm(b[some_features], x[some_rows], weights[some_features].T)
    return candidates.with_values(values.masked_scatter(contested, scores[row, column]))


def _kth(candidates: SparseActs, k: int) -> Float[Tensor, " n"]:
    """The k-th largest value of each row."""
    best = candidates.values.new_empty(len(candidates), k)
    places = torch.empty(len(candidates), k, dtype=torch.long)
    run(compiled_rounded.top_k_of_candidates, candidates.offsets, candidates.indices,
        candidates.values, k, best, places)  # fmt: skip
    return best.amin(dim=1)


def _enough(numbers: Int[Tensor, " m"]) -> Int[Tensor, " m_or_more"]:
    """The same numbers, repeated until there are enough for a product of matrices."""
    return numbers[torch.arange(max(len(numbers), _LEAST)) % len(numbers)]
