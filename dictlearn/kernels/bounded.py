"""Searches by all scores, and by products of rounded factors, which take less time.

A rounded product bounds every score (`kernels.rounding`), and only scores that the bounds do not
exclude are computed. Where they exclude too few (of rows with a few very large entries, say, in
whose units the others vanish), the first rows show it, and the rest is searched by all scores.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import compiled, compiled_candidates, compiled_rounded, contested
from dictlearn.kernels.entries import by_feature
from dictlearn.kernels.native import is_native, run
from dictlearn.kernels.rounding import RoundedTile, Tiles, int8_tiles
from dictlearn.kernels.tiles import score_tiles

_MOST_CANDIDATES = 1 / 16
"""The fraction of scores that may be computed one by one."""
_MARGIN = 1 / 8
"""By how much less than the k-th best estimate the k-th best score is taken to be, as a fraction of
what it may be at most. Roundings have signs, which cancel: the more terms, the more so."""


class Top(NamedTuple):
    """The `k` best features of each row, in no particular order."""

    scores: Float[Tensor, "n k"]
    features: Int[Tensor, "n k"]


def dense_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> Top:
    """The `k` largest entries of each row of `x @ W + b`, of which all are computed."""
    top = _empty_top(x, len(x), k)
    for rows, scores in score_tiles(x, W, b):
        if is_native(scores):
            out = top.scores[rows], top.features[rows]
            run(compiled.top_k, scores, k, _lanes(k, len(b)), *out)
        else:
            top.scores[rows], top.features[rows] = scores.topk(k, dim=1, sorted=False)
    return top


def bounded_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
    tiles: Tiles,
) -> Top:
    """The same by bounds from rounded products.

    Scores whose upper bounds reach about the k-th best estimate are computed. Where the k-th best
    of those is lower than that, so are those whose upper bounds reach it: no other is among the k
    best. Close calls are decided as by all scores (`kernels.contested`), so that the features are
    the same wherever scores are finite: but for fewer than 76 rows or 12 features, which products
    of all scores may sum in another order.
    """
    top = _empty_top(x, len(x), k)
    weights, median = W.T.contiguous(), None
    for rows, tile in tiles(x, weights):
        if median is None:  # features are the same in all tiles
            median = float(tile.w_errors.nanmedian()), float(tile.w_norms.nanmedian())
        bounds, candidates = _likely(tile, b, k, *median)
        found, least = _best_of(candidates, tile, x[rows], weights, b, k)
        n_computed = len(candidates.indices)
        lower = (least < bounds).nonzero()[:, 0]
        if len(lower):
            own = tile.select(lower)
            candidates = _reaching(own, b, least[lower])
            again, _ = _best_of(candidates, own, x[rows][lower], weights, b, k)
            found.scores[lower], found.features[lower] = again
            n_computed += len(candidates.indices)
        top.scores[rows], top.features[rows] = found
        if rows.start == 0 and _are_many(n_computed, tile):
            rest = slice(rows.stop, None)
            top.scores[rest], top.features[rest] = dense_top_k(x[rest], W, b, k)
            break
    return top


def rescored_top_k(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    k: int,
) -> Top:
    """The same among twice as many features, those that an int8 product ranks highest."""
    top = _empty_top(x, len(x), k)
    weights, n_candidates = W.T.contiguous(), min(len(b), max(2 * k, k + 16))
    for rows, tile in int8_tiles(x, weights):
        candidates = _rescored(_best_estimates(tile, b, n_candidates), x[rows], weights, b)
        (top.scores[rows], top.features[rows]), _ = _top_k_of(candidates, k)
    return top


def dense_above(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    bound: float,
) -> SparseActs:
    """The entries of `x @ W + b` that are greater than `bound`; all are computed."""
    parts = [_entries_above(scores, bound) for _, scores in score_tiles(x, W, b)]
    return SparseActs.concatenated(parts, len(b))


def bounded_above(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    bound: float,
    tiles: Tiles,
) -> SparseActs:
    """The same by bounds from rounded products, but for scores within rounding of `bound`."""
    weights, parts = W.T.contiguous(), []
    for rows, tile in tiles(x, weights):
        candidates = _reaching(tile, b, x.new_full((rows.stop - rows.start,), bound))
        if rows.start == 0 and _are_many(len(candidates.indices), tile):
            return dense_above(x, W, b, bound)
        scored = _rescored(candidates, x[rows], weights, b)
        parts.append(scored.where(scored.values > bound))
    return SparseActs.concatenated(parts, len(b))


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


def _best_estimates(tile: RoundedTile, b: Float[Tensor, " feature"], k: int) -> SparseActs:
    """The `k` features of each row that rank highest by estimate; their values are not set."""
    counts = torch.empty(len(tile.products), dtype=torch.long)
    places = torch.empty(len(counts), k, dtype=torch.int32)
    out = counts, places
    run(compiled_rounded.best_estimates, *tile[:2], b, k, _lanes(k, len(b)), *out)
    return _packed(counts, places, b)


def _likely(
    tile: RoundedTile, b: Float[Tensor, " feature"], k: int, w_error: float, w_norm: float
) -> tuple[Float[Tensor, " n"], SparseActs]:
    """A bound for each row that k scores are likely to reach, and all features that may reach it.

    `w_error` and `w_norm` are those of a typical feature. Values are not set, as in `_reaching`.
    """
    bounds = torch.empty_like(tile.x_scales)
    counts = torch.empty(len(bounds), dtype=torch.long)
    places = torch.empty(len(bounds), len(b), dtype=torch.int32)
    out = bounds, counts, places
    run(compiled_rounded.likely, *tile, b, k, _lanes(k, len(b)), _MARGIN, w_error, w_norm, *out)
    return bounds, _packed(counts, places, b)


def _reaching(
    tile: RoundedTile, b: Float[Tensor, " feature"], bounds: Float[Tensor, " n"]
) -> SparseActs:
    """The features of each row whose scores may reach its bound; their values are not set."""
    counts = torch.empty(len(bounds), dtype=torch.long)
    places = torch.empty(len(bounds), len(b), dtype=torch.int32)
    run(compiled_rounded.reaching, *tile, b, bounds, counts, places)
    return _packed(counts, places, b)


def _packed(
    counts: Int[Tensor, " n"], places: Int[Tensor, "n most"], b: Float[Tensor, " feature"]
) -> SparseActs:
    """The first `counts` places of each row, without values."""
    total = int(counts.sum())
    features = torch.empty(total, dtype=torch.long)
    packed = SparseActs.from_counts(counts, features, b.new_empty(total), len(b))
    run(compiled_candidates.pack, places, packed.offsets, features)
    return packed


def _rescored(
    candidates: SparseActs,
    x: Float[Tensor, "n d_in"],
    weights: Float[Tensor, "feature d_in"],
    b: Float[Tensor, " feature"],
) -> SparseActs:
    """The candidates with their exact scores; feature by feature, so that each is read once."""
    scores = by_feature(candidates).dots(x, weights)
    return candidates.with_values(scores + b[candidates.indices])


def _best_of(
    candidates: SparseActs,
    tile: RoundedTile,
    x: Float[Tensor, "n d_in"],
    weights: Float[Tensor, "feature d_in"],
    b: Float[Tensor, " feature"],
    k: int,
) -> tuple[Top, Float[Tensor, " n"]]:
    """The k best candidates of each row, and a bound that the scores of as many reach."""
    scored = _rescored(candidates, x, weights, b)
    top, n_found = _top_k_of(scored, k)
    least = contested.least_of_best(*top, n_found, tile, b, x.shape[1])
    rows, decided = contested.decided(scored, tile, x, weights, b, top.scores)
    (top.scores[rows], top.features[rows]), _ = _top_k_of(decided, k)
    return top, least


def _top_k_of(candidates: SparseActs, k: int) -> tuple[Top, Int[Tensor, " n"]]:
    """The best candidates of each row, zeros if too few are numbers, and how many are."""
    top, n_found = _empty_top(candidates.values, len(candidates), k), candidates.l0()
    run(compiled_candidates.top_k_of_candidates, candidates.offsets, candidates.indices,
        candidates.values, k, *top, n_found)  # fmt: skip
    return top, n_found


def _are_many(n_computed: int, tile: RoundedTile) -> bool:
    """Whether so many scores are computed one by one that a product of all takes less time."""
    return n_computed > _MOST_CANDIDATES * tile.products.numel()


def _lanes(k: int, n_features: int) -> int:
    """The number of lanes that a row is divided into: see `compiled.kth_bound`."""
    return min(n_features, max(128, 8 * k))


def _empty_top(x: Float[Tensor, "*any"], n: int, k: int) -> Top:
    """Room for `n` rows, in the dtype and on the device of `x`."""
    return Top(x.new_empty(n, k), torch.empty((n, k), dtype=torch.long, device=x.device))
