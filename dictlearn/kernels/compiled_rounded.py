"""Compiled loops that round factors, and that find candidates by products of such.

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
def _slack(
    score: np.float32, bias: np.float32, precision: np.float32, x_error: np.float32,
    x_norm: np.float32, w_error: np.float32, w_norm: np.float32,
) -> np.float32:  # fmt: skip
    """By how much a score may differ from its estimate `score`.

    With roundings e of x and f of w, `x . w - (x - e) . (w - f) = e . w + (x - e) . f`, which is
    at most `|e| |w| + |x - e| |f|`; products, and their sums with biases, are rounded as well.
    (What float32 loses in sums of many terms is in `x_error`: `rounding._tile`.)
    """
    return (x_error * w_norm + x_norm * w_error) + precision * (abs(score) + abs(bias))


@loop()
def _mark_reaching(
    scores: np.ndarray, b: np.ndarray, precision: np.float32, x_error: np.float32,
    x_norm: np.float32, w_errors: np.ndarray, w_norms: np.ndarray, bound: np.float32,
    hits: np.ndarray,
) -> None:  # fmt: skip
    """Mark the estimates of scores that may reach `bound`. All of a score that is NaN may."""
    for j in range(len(scores)):
        slack = _slack(scores[j], b[j], precision, x_error, x_norm, w_errors[j], w_norms[j])
        hits[j] = not scores[j] + slack < bound


@loop()
def _likely_of_row(
    products: np.ndarray, x_scale: float, precision: np.float32, x_error: float, x_norm: float,
    w_errors: np.ndarray, w_norms: np.ndarray, b: np.ndarray, k: int, lanes: int,
    margin: np.float32, w_error: float, w_norm: float, places: np.ndarray,
) -> tuple[float, int]:  # fmt: skip
    scores, hits = np.empty(len(products), np.float32), np.empty(len(products), np.uint8)
    _estimate(products, x_scale, b, scores)
    kth = kth_bound(scores, k, lanes)
    none = np.float32(0)  # the bias, whose rounding is a small part of the slack
    bound = kth - margin * _slack(kth, none, precision, x_error, x_norm, w_error, w_norm)
    _mark_reaching(scores, b, precision, x_error, x_norm, w_errors, w_norms, bound, hits)
    return bound, places_of(hits, places)


@loop(parallel=True)
def likely(
    products: np.ndarray, x_scales: np.ndarray, precision: float,
    x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray, w_norms: np.ndarray,
    b: np.ndarray, k: int, lanes: int, margin: float, w_error: float, w_norm: float,
    bounds: np.ndarray, counts: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """For each row a bound, and as in `reaching` the places of scores that may reach it.

    The bound is the `k`-th best estimate less `margin` times the slack of such a score of a feature
    with `w_error` and `w_norm`. A row is searched by a function of its own, which is compiled to
    faster code.
    """
    for i in prange(len(products)):
        bounds[i], counts[i] = _likely_of_row(
            products[i], x_scales[i], np.float32(precision), x_errors[i], x_norms[i],
            w_errors, w_norms, b, k, lanes, np.float32(margin), np.float32(w_error),
            np.float32(w_norm), places[i],
        )  # fmt: skip


@loop(parallel=True)
def reaching(
    products: np.ndarray, x_scales: np.ndarray, precision: float,
    x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray, w_norms: np.ndarray,
    b: np.ndarray, bounds: np.ndarray, counts: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """The places of scores that may reach the bound of their row, and how many they are."""
    size = products.shape[1]
    for i in prange(len(products)):
        scores, hits = np.empty(size, np.float32), np.empty(size, np.uint8)
        _estimate(products[i], x_scales[i], b, scores)
        _mark_reaching(
            scores, b, np.float32(precision), x_errors[i], x_norms[i], w_errors, w_norms,
            bounds[i], hits,
        )  # fmt: skip
        counts[i] = places_of(hits, places[i])
