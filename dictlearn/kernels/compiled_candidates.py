"""Compiled loops over the candidates of a search, as compressed sparse rows.

As in `kernels.compiled`, every row belongs to one thread.
"""

import numpy as np
from numba import prange

from dictlearn.kernels.compiled import keep_largest, nth_largest
from dictlearn.kernels.native import loop


@loop(parallel=True)
def pack(places: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    """The first entries of each row of `places`, one row's after the other's."""
    for i in prange(len(places)):
        for c in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + c] = places[i, c]


@loop(parallel=True)
def top_k_of_candidates(
    offsets: np.ndarray, places: np.ndarray, values: np.ndarray, k: int,
    out_values: np.ndarray, out_places: np.ndarray, n_found: np.ndarray,
) -> None:  # fmt: skip
    """`top_k` among some places of each row, in order, with their scores; NaN has no rank.

    `n_found` is the number of scores that have, which may be less than `k`.
    """
    for i in prange(len(offsets) - 1):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        numbers, their_places = np.empty(n, values.dtype), np.empty(n, places.dtype)
        m = 0
        for e in range(start, start + n):
            if not np.isnan(values[e]):
                numbers[m], their_places[m] = values[e], places[e]
                m += 1
        keep_largest(numbers, their_places, m, k, out_values[i], out_places[i])
        n_found[i] = m


@loop()
def _slack(relative: np.float32, x_norm: float, w_norm: float, bias: float) -> np.float32:
    """By how much a score may differ between two orders of its sum (`contested._slack`)."""
    return relative * (x_norm * w_norm + abs(bias))


@loop(parallel=True)
def least_of_best(
    scores: np.ndarray, places: np.ndarray, n_found: np.ndarray, relative: float,
    x_norms: np.ndarray, w_norms: np.ndarray, b: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """For each row the least that one of its `k` scores may be in another order of sums.

    That is minus infinity where fewer were found, or where a bound of a score is NaN.
    """
    unit, k = np.float32(relative), scores.shape[1]
    for i in prange(len(out)):
        least = np.float32(np.inf if n_found[i] >= k else -np.inf)
        for c in range(k):
            j = places[i, c]
            lower = scores[i, c] - _slack(unit, x_norms[i], w_norms[j], b[j])
            least = min(least, lower if lower == lower else np.float32(-np.inf))
        out[i] = least


@loop(parallel=True)
def are_close(
    offsets: np.ndarray, places: np.ndarray, values: np.ndarray, relative: float,
    x_norms: np.ndarray, w_norms: np.ndarray, b: np.ndarray, kept: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Mark the rows that may have close calls (`close_calls`); `kept` are their k best scores.

    A row has none if only k scores are above the least one kept less twice the largest slack: in
    whatever order terms are added, all others stay below these. (Three times it, for rounding.)
    """
    unit, k = np.float32(relative), kept.shape[1]
    for i in prange(len(out)):
        most = np.float32(0)
        for e in range(offsets[i], offsets[i + 1]):
            j = places[e]
            slack = _slack(unit, x_norms[i], w_norms[j], b[j])
            most = max(most, slack if slack == slack else np.float32(np.inf))
        least, n_near = kept[i].min() - np.float32(3) * most, 0
        for e in range(offsets[i], offsets[i + 1]):
            n_near += not values[e] < least
        out[i] = n_near > k


@loop()
def _close_calls_of_row(
    places: np.ndarray, values: np.ndarray, relative: np.float32, x_norm: float,
    w_norms: np.ndarray, b: np.ndarray, k: int, out: np.ndarray,
) -> None:  # fmt: skip
    n, m = len(values), 0
    lower, upper = np.empty(n, values.dtype), np.empty(n, values.dtype)
    for e in range(n):
        j = places[e]
        slack = _slack(relative, x_norm, w_norms[j], b[j])
        lower[m], upper[m] = values[e] - slack, values[e] + slack
        m += lower[m] <= upper[m]  # neither is NaN
    if m <= k:
        return
    least, most = nth_largest(lower[:m], k), nth_largest(upper[:m], k)
    n_possible = 0
    for e in range(m):
        n_possible += upper[e] >= least
    if n_possible <= k:
        return
    for e in range(n):
        j = places[e]
        slack = _slack(relative, x_norm, w_norms[j], b[j])
        out[e] = values[e] + slack >= least and values[e] - slack <= most


@loop(parallel=True)
def close_calls(
    offsets: np.ndarray, places: np.ndarray, values: np.ndarray, relative: float,
    x_norms: np.ndarray, w_norms: np.ndarray, b: np.ndarray, k: int, out: np.ndarray,
) -> None:  # fmt: skip
    """Mark the entries that are among the `k` best of their row in one order of sums and may not be
    in another; none of a row in which every order has the same. `out` comes in without marks."""
    for i in prange(len(offsets) - 1):
        own = slice(offsets[i], offsets[i + 1])
        _close_calls_of_row(
            places[own], values[own], np.float32(relative), x_norms[i], w_norms, b, k, out[own]
        )
