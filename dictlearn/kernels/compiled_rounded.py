"""Compiled loops over products of rounded factors: candidates from those, exact scores for them.

As in `kernels.compiled`, every row belongs to one thread.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, prange
from numba.extending import overload

from dictlearn.kernels.compiled import (
    REASSOCIATED,
    collect,
    keep_largest,
    kth_bound,
    nth_largest,
    places_of,
)
from dictlearn.kernels.native import loop

_TO_WHOLE = np.float32(1.5 * 2**23)
"""Numbers of this size have no fraction: adding it rounds to the nearest whole number."""


@loop()
def _nearest(x: np.float32) -> np.float32:
    """The nearest whole number; without the liberties that would take the two sums for nothing."""
    return (x + _TO_WHOLE) - _TO_WHOLE


@loop(parallel=True)
def largest_magnitudes(x: np.ndarray, out: np.ndarray) -> None:
    """The bits of the largest magnitude of each row; NaN, if there is one.

    As integers the bits of magnitudes have the same order, and integers have a vectorized maximum.
    """
    bits = x.view(np.int32)
    for i in prange(len(x)):
        largest = np.int32(0)
        for j in range(bits.shape[1]):
            largest = max(largest, bits[i, j] & np.int32(0x7FFFFFFF))
        out[i] = largest


@loop(parallel=True, fastmath=REASSOCIATED)
def to_int8(
    x: np.ndarray, levels: int, scales: np.ndarray,
    out: np.ndarray, errors: np.ndarray, norms: np.ndarray,
) -> None:  # fmt: skip
    """Each row in whole units of `scales`, at most `levels` of them; norms as in `to_bfloat16`."""
    most, none = np.float32(levels), np.float32(0)
    for i in prange(len(x)):
        row, scale = x[i], scales[i]
        inverse = np.float32(1) / scale
        error, norm = none, none
        for j in range(len(row)):
            units = _nearest(row[j] * inverse)
            # Nor is NaN, which no byte can tell and which stays in the error.
            units = units if abs(units) <= most else none
            out[i, j] = np.int8(units)
            rounded = units * scale
            error += (row[j] - rounded) * (row[j] - rounded)
            norm += rounded * rounded
        errors[i], norms[i] = np.sqrt(error), np.sqrt(norm)


@loop(parallel=True, fastmath=REASSOCIATED)
def to_bfloat16(x: np.ndarray, out: np.ndarray, errors: np.ndarray, norms: np.ndarray) -> None:
    """Each row in bfloat16, as bits; the norm of what rounding took from it, and of the result.

    Rounded to nearest by adding half of the last place that is kept, less one where that is even.
    """
    for i in prange(len(x)):
        row = x[i]
        bits = row.view(np.uint32)
        kept = np.empty(len(row), np.uint32)
        for j in range(len(row)):
            odd = (bits[j] >> np.uint32(16)) & np.uint32(1)
            kept[j] = (bits[j] + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
            out[i, j] = np.uint16(kept[j] >> np.uint32(16))
        rounded = kept.view(np.float32)
        error, norm = np.float32(0), np.float32(0)
        for j in range(len(row)):
            error += (row[j] - rounded[j]) * (row[j] - rounded[j])
            norm += rounded[j] * rounded[j]
        errors[i], norms[i] = np.sqrt(error), np.sqrt(norm)


@loop()
def _leading_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of which bfloat16 `bits` are the leading half."""
    out = np.empty(len(bits), np.uint32)
    for j in range(len(bits)):
        out[j] = np.uint32(bits[j]) << np.uint32(16)
    return out.view(np.float32)


def _in_float32(products: np.ndarray) -> np.ndarray:
    """Products of a row: float32 as they are, and bfloat16, which is given as bits."""
    return products if products.dtype == np.float32 else _leading_bits(products)


@overload(_in_float32, strict=False)  # annotations differ
def _compiled_in_float32(products: Any) -> Callable[[Any], Any]:
    if products.dtype == float32:
        return lambda products: products
    return lambda products: _leading_bits(products)


@loop()
def _estimate(products: np.ndarray, x_scale: float, b: np.ndarray, out: np.ndarray) -> None:
    """The scores of a row by rounded `products`."""
    rounded = _in_float32(products)
    for j in range(len(products)):
        out[j] = rounded[j] * x_scale + b[j]


@loop()
def _best_of_row(
    products: np.ndarray, x_scale: float, b: np.ndarray, k: int, lanes: int, places: np.ndarray
) -> int:  # fmt: skip
    """Write the places of the `k` largest estimates; how many there are, fewer if some are NaN."""
    size = len(products)
    scores, found = np.empty(size, np.float32), np.empty(size, np.float32)
    found_places, values = np.empty(size, np.int32), np.empty(k, np.float32)
    _estimate(products, x_scale, b, scores)
    n_found = collect(scores, kth_bound(scores, k, lanes), found, found_places)
    keep_largest(found, found_places, n_found, k, values, places)
    return min(n_found, k)


@loop(parallel=True)
def best_estimates(
    products: np.ndarray, x_scales: np.ndarray, b: np.ndarray, k: int, lanes: int,
    counts: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """`_best_of_row` for every row; in a function of its own, it is compiled to faster code."""
    for i in prange(len(products)):
        counts[i] = _best_of_row(products[i], x_scales[i], b, k, lanes, places[i])


@loop()
def _reaching_of_row(
    products: np.ndarray, x_scale: float, precision: float, x_error: float, x_norm: float,
    w_errors: np.ndarray, w_norms: np.ndarray, b: np.ndarray, bound: float, places: np.ndarray,
) -> int:  # fmt: skip
    """Write the places of scores that may reach `bound`; how many there are.

    With roundings e of x and f of w, `x . w - (x - e) . (w - f) = e . w + (x - e) . f`, which is
    at most `|e| |w| + |x - e| |f|`; products, and their sums with biases, are rounded as well. All
    of a score that is NaN may.
    """
    rounded, relative = _in_float32(products), np.float32(precision)
    hits = np.empty(len(products), np.uint8)
    for j in range(len(products)):
        score = rounded[j] * x_scale + b[j]
        slack = x_error * w_norms[j] + x_norm * w_errors[j]
        upper = score + (slack + relative * (abs(score) + abs(b[j])))
        hits[j] = not upper < bound
    return places_of(hits, places)


@loop(parallel=True)
def reaching(
    products: np.ndarray, x_scales: np.ndarray, precision: float,
    x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray, w_norms: np.ndarray,
    b: np.ndarray, bounds: np.ndarray, counts: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """`_reaching_of_row` for every row."""
    for i in prange(len(products)):
        counts[i] = _reaching_of_row(
            products[i], x_scales[i], precision, x_errors[i], x_norms[i], w_errors, w_norms,
            b, bounds[i], places[i],
        )  # fmt: skip


@loop(parallel=True)
def pack(places: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
    """The first entries of each row of `places`, one row's after the other's."""
    for i in prange(len(places)):
        for c in range(offsets[i + 1] - offsets[i]):
            out[offsets[i] + c] = places[i, c]


@loop(parallel=True)
def top_k_of_candidates(
    offsets: np.ndarray, places: np.ndarray, values: np.ndarray, k: int,
    out_values: np.ndarray, out_places: np.ndarray,
) -> None:  # fmt: skip
    """`top_k` among some places of each row, in order, with their scores; NaN has no rank."""
    for i in prange(len(offsets) - 1):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        numbers, their_places = np.empty(n, values.dtype), np.empty(n, places.dtype)
        m = 0
        for e in range(start, start + n):
            if not np.isnan(values[e]):
                numbers[m], their_places[m] = values[e], places[e]
                m += 1
        keep_largest(numbers, their_places, m, k, out_values[i], out_places[i])


@loop(parallel=True)
def least_of_best(
    offsets: np.ndarray, places: np.ndarray, values: np.ndarray, relative: float,
    x_norms: np.ndarray, w_norms: np.ndarray, b: np.ndarray, k: int, out: np.ndarray,
) -> None:  # fmt: skip
    """For each row of `k` entries the least that one may be in another order of sums.

    That is minus infinity where there are fewer entries, or where one is NaN.
    """
    unit = np.float32(relative)
    for i in prange(len(out)):
        least = np.float32(np.inf if offsets[i + 1] - offsets[i] == k else -np.inf)
        for e in range(offsets[i], offsets[i + 1]):
            j = places[e]
            lower = values[e] - unit * (x_norms[i] * w_norms[j] + abs(b[j]))
            least = min(least, lower if lower == lower else np.float32(-np.inf))
        out[i] = least


@loop()
def _close_calls_of_row(
    places: np.ndarray, values: np.ndarray, relative: np.float32, x_norm: float,
    w_norms: np.ndarray, b: np.ndarray, k: int, out: np.ndarray,
) -> None:  # fmt: skip
    n, m = len(values), 0
    lower, upper = np.empty(n, values.dtype), np.empty(n, values.dtype)
    for e in range(n):
        j = places[e]
        slack = relative * (x_norm * w_norms[j] + abs(b[j]))
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
        slack = relative * (x_norm * w_norms[j] + abs(b[j]))
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
