"""Compiled loops over products of rounded factors: candidates from those, exact scores for them.

As in `kernels.compiled`, every row belongs to one thread.
"""

import numpy as np
from numba import prange

from dictlearn.kernels.compiled import REASSOCIATED, collect, keep_largest, kth_bound
from dictlearn.kernels.native import loop


@loop(parallel=True)
def to_int8(x: np.ndarray, out: np.ndarray, scales: np.ndarray) -> None:
    """Each row as int8 in units of its largest magnitude / 127, so that `x ~ scales * out`."""
    for i in prange(len(x)):
        row = x[i]
        largest = abs(row[0])
        for j in range(1, len(row)):
            largest = max(largest, abs(row[j]))
        scale = largest / 127 if largest > 0 else row.dtype.type(1)
        scales[i] = scale
        for j in range(len(row)):
            out[i, j] = np.int8(np.rint(row[j] / scale))


@loop(parallel=True, fastmath=REASSOCIATED)
def rescored_top_k(
    products: np.ndarray, x_scales: np.ndarray, w_scales: np.ndarray,
    x: np.ndarray, weights: np.ndarray, b: np.ndarray,
    k: int, n_candidates: int, lanes: int, out_values: np.ndarray, out_places: np.ndarray,
) -> None:  # fmt: skip
    """`top_k` among the candidates that int8 `products` rank highest, by their exact scores."""
    n_features = products.shape[1]
    for i in prange(len(products)):
        approximate = np.empty(n_features, x.dtype)
        scale = x_scales[i]
        for j in range(n_features):
            approximate[j] = products[i, j] * (w_scales[j] * scale) + b[j]
        bound = kth_bound(approximate, n_candidates, lanes)
        values, places = np.empty(n_features, x.dtype), np.empty(n_features, np.int32)
        size = collect(approximate, bound, values, places)
        row = x[i]
        for c in range(size):
            weight = weights[places[c]]
            total = row[0] * weight[0]
            for j in range(1, len(row)):
                total += row[j] * weight[j]
            values[c] = total + b[places[c]]
        keep_largest(values, places, size, k, out_values[i], out_places[i])


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
def _bounds(
    products: np.ndarray, x_error: float, x_norm: float, w_errors: np.ndarray,
    w_norms: np.ndarray, b: np.ndarray, lower: np.ndarray, upper: np.ndarray,
) -> None:  # fmt: skip
    """Lower and upper bounds of the scores of a row, given rounded `products` (as bits).

    With roundings e of x and f of w, `x . w - (x - e) . (w - f) = e . w + (x - e) . f`, which is
    at most `|e| |w| + |x - e| |f|`; and the product itself is rounded in its eighth bit.
    """
    size = len(products)
    bits = np.empty(size, np.uint32)
    for j in range(size):
        bits[j] = np.uint32(products[j]) << np.uint32(16)
    rounded = bits.view(np.float32)
    last_place = np.float32(1 / 255)
    for j in range(size):
        score = rounded[j]
        slack = x_error * w_norms[j] + x_norm * w_errors[j] + last_place * abs(score)
        lower[j] = score + b[j] - slack
        upper[j] = score + b[j] + slack


@loop(fastmath=REASSOCIATED)
def _rescore(
    x: np.ndarray, weights: np.ndarray, b: np.ndarray, places: np.ndarray, values: np.ndarray
) -> None:
    """The exact scores of one row at `places`."""
    for c in range(len(places)):
        weight = weights[places[c]]
        total = x[0] * weight[0]
        for j in range(1, len(x)):
            total += x[j] * weight[j]
        values[c] = total + b[places[c]]


@loop(parallel=True)
def bounded_top_k(
    products: np.ndarray, x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray,
    w_norms: np.ndarray, x: np.ndarray, weights: np.ndarray, b: np.ndarray, k: int, lanes: int,
    out_values: np.ndarray, out_places: np.ndarray,
) -> None:  # fmt: skip
    """`top_k` of the exact scores, of which only those that may be among the k are computed."""
    size = products.shape[1]
    for i in prange(len(products)):
        lower, upper = np.empty(size, np.float32), np.empty(size, np.float32)
        _bounds(products[i], x_errors[i], x_norms[i], w_errors, w_norms, b, lower, upper)
        bound = kth_bound(lower, k, lanes)
        values, places = lower, np.empty(size, np.int32)  # the lower bounds have served
        found = collect(upper, bound, values, places)
        _rescore(x[i], weights, b, places[:found], values[:found])
        keep_largest(values, places, found, k, out_values[i], out_places[i])


@loop(parallel=True)
def bounded_count_above(
    products: np.ndarray, x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray,
    w_norms: np.ndarray, b: np.ndarray, bound: float, counts: np.ndarray,
) -> None:  # fmt: skip
    """The number of scores of each row that may reach `bound`."""
    size, limit = products.shape[1], np.float32(bound)
    for i in prange(len(products)):
        lower, upper = np.empty(size, np.float32), np.empty(size, np.float32)
        _bounds(products[i], x_errors[i], x_norms[i], w_errors, w_norms, b, lower, upper)
        m = np.int32(0)
        for j in range(size):
            m += np.int32(upper[j] >= limit)
        counts[i] = m


@loop(parallel=True)
def bounded_collect_above(
    products: np.ndarray, x_errors: np.ndarray, x_norms: np.ndarray, w_errors: np.ndarray,
    w_norms: np.ndarray, x: np.ndarray, weights: np.ndarray, b: np.ndarray, bound: float,
    starts: np.ndarray, values: np.ndarray, places: np.ndarray,
) -> None:  # fmt: skip
    """The exact scores that may reach `bound`, row `i` from entry `starts[i]` on."""
    size, limit = products.shape[1], np.float32(bound)
    for i in prange(len(products)):
        lower, upper = np.empty(size, np.float32), np.empty(size, np.float32)
        _bounds(products[i], x_errors[i], x_norms[i], w_errors, w_norms, b, lower, upper)
        start = starts[i]
        found = collect(upper, limit, values[start:], places[start:])
        end = start + found
        _rescore(x[i], weights, b, places[start:end], values[start:end])
