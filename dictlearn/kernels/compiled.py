"""Loops over rows and entries that torch has no operation for, compiled for the CPU by numba.

Each works on NumPy views of torch's memory, writes into arrays given to it, and gives every row
(or feature) to one thread, so that the number of threads changes no bit of a result. What each
computes is stated in torch where it is called, and tested against that.
"""

import numpy as np
from numba import prange

from dictlearn.kernels.native import loop

_BLOCK = 64
"""Scores tested at once for whether any of them matters: enough that the test is vectorized."""
_HALVINGS = 20
"""Most halvings of a range of scores; what they leave open lets a few more candidates in. One score
far above all others makes the range long."""
REASSOCIATED = {"reassoc", "contract", "nsz"}
"""Liberties that let a dot product use vector registers; NaN and infinity keep their meaning."""


@loop()
def _nth_largest(values: np.ndarray, size: int, n: int) -> float:
    """The `n`-th largest of the first `size` values, whose order changes (Hoare's selection)."""
    low, high = 0, size - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if n - 1 <= j:
            high = j
        elif n - 1 >= i:
            low = i
        else:
            break
    return values[n - 1]


@loop()
def nth_largest(values: np.ndarray, n: int) -> float:
    """The `n`-th largest of `values`."""
    return _nth_largest(values.copy(), len(values), n)


@loop()
def kth_bound(row: np.ndarray, k: int, lanes: int) -> float:
    """A lower bound of the `k`-th largest entry, and a tight one; NaN does not count.

    Entries are dealt out to `lanes >= k` lanes; k lanes whose best entry reaches the bound hold
    k different entries that do. Halving the range of those best entries, with a count at each
    halving, takes a few vector instructions where sorting them would take many branches.
    """
    best, better = np.full(lanes, -np.inf, row.dtype), np.empty(lanes, row.dtype)
    n_full = len(row) // lanes
    for c in range(n_full):
        part = row[c * lanes : (c + 1) * lanes]
        for j in range(lanes):  # in place, it would be stored under a mask, which takes longer
            better[j] = part[j] if part[j] > best[j] else best[j]
        best, better = better, best
    for j in range(len(row) - n_full * lanes):
        other = row[n_full * lanes + j]
        best[j] = other if other > best[j] else best[j]
    low, high = best[0], best[0]
    for j in range(1, lanes):
        low, high = min(low, best[j]), max(high, best[j])
    if k == 1:  # the best entry of all lanes, with nothing to count
        return high
    half = row.dtype.type(0.5)
    for _ in range(_HALVINGS):
        middle = low + (high - low) * half
        reached = np.int32(0)
        for j in range(lanes):
            reached += np.int32(best[j] >= middle)
        if reached == k:
            return middle
        if reached > k:
            low = middle
        else:
            high = middle
    return low


@loop()
def collect(row: np.ndarray, bound: float, values: np.ndarray, places: np.ndarray) -> int:
    """Write the entries of `row` that are at least `bound`, in order; how many there are.

    `places` has room for the whole row.
    """
    limit, hits = row.dtype.type(bound), np.empty(len(row), np.uint8)
    for j in range(len(row)):
        hits[j] = row[j] >= limit
    n = places_of(hits, places)
    for m in range(n):
        values[m] = row[places[m]]
    return n


@loop()
def places_of(hits: np.ndarray, places: np.ndarray) -> int:
    """Write the places of the ones among zeros, in order; how many there are.

    Eight are tested at once, as a word; in a word with a one every place is written, and the next
    one over it if it is none: a branch for each, which nothing predicts, would take longer. So
    `places` needs room for all.
    """
    size, n = len(hits), 0
    words = hits[: size - size % 8].view(np.uint64)
    for w in range(len(words)):
        if words[w]:
            for j in range(8 * w, 8 * w + 8):
                places[n] = j
                n += int(hits[j])
    for j in range(8 * len(words), size):
        places[n] = j
        n += int(hits[j])
    return n


@loop()
def keep_largest(
    values: np.ndarray, places: np.ndarray, size: int, k: int,
    out_values: np.ndarray, out_places: np.ndarray,
) -> None:  # fmt: skip
    """The `k` largest of the first `size` entries, the first of equals; zeros if too few."""
    if size > k:
        bound = _nth_largest(values[:size].copy(), size, k)
        ties = k
        for j in range(size):
            ties -= values[j] > bound
    else:
        bound, ties = -np.inf, size
        for j in range(size, k):
            out_values[j], out_places[j] = 0.0, 0
    m = 0
    for j in range(size):
        if values[j] < bound or (values[j] == bound and ties == 0):
            continue
        ties -= values[j] == bound
        out_values[m], out_places[m] = values[j], places[j]
        m += 1


@loop()
def _top_k_of_row(
    row: np.ndarray, k: int, lanes: int, out_values: np.ndarray, out_places: np.ndarray
) -> None:
    values, places = np.empty(len(row), row.dtype), np.empty(len(row), np.int32)
    size = collect(row, kth_bound(row, k, lanes), values, places)
    keep_largest(values, places, size, k, out_values, out_places)


@loop(parallel=True)
def top_k(
    scores: np.ndarray, k: int, lanes: int, out_values: np.ndarray, out_places: np.ndarray
) -> None:
    """Row by row the `k` largest scores and their places, in order of place.

    A row is searched by a function of its own, which is compiled to faster code.
    """
    for i in prange(len(scores)):
        _top_k_of_row(scores[i], k, lanes, out_values[i], out_places[i])


@loop(parallel=True)
def count_above(scores: np.ndarray, bound: float, counts: np.ndarray) -> None:
    """The number of scores of each row greater than `bound`."""
    limit = scores.dtype.type(bound)
    for i in prange(len(scores)):
        row = scores[i]
        m = np.int32(0)
        for j in range(len(row)):
            m += np.int32(row[j] > limit)
        counts[i] = m


@loop(parallel=True)
def collect_above(
    scores: np.ndarray, bound: float, starts: np.ndarray, values: np.ndarray, places: np.ndarray
) -> None:
    """The scores greater than `bound` and their places, row `i` from entry `starts[i]` on."""
    limit = scores.dtype.type(bound)
    for i in prange(len(scores)):
        row = scores[i]
        size = len(row)
        m = starts[i]
        for start in range(0, size - size % _BLOCK, _BLOCK):
            part = row[start : start + _BLOCK]
            hits = np.int32(0)
            for j in range(_BLOCK):
                hits += np.int32(part[j] > limit)
            if hits:
                for j in range(_BLOCK):
                    if part[j] > limit:
                        values[m], places[m] = part[j], start + j
                        m += 1
        for j in range(size - size % _BLOCK, size):
            if row[j] > limit:
                values[m], places[m] = row[j], j
                m += 1


@loop()
def by_feature(
    offsets: np.ndarray, indices: np.ndarray, starts: np.ndarray,
    rows: np.ndarray, entries: np.ndarray,
) -> None:  # fmt: skip
    """Entries in order of their feature: `starts` per feature, and each entry's row and number.

    `starts` has one place more than there are features, and comes in as zeros.
    """
    for e in range(len(indices)):
        starts[indices[e] + 1] += 1
    for f in range(1, len(starts)):
        starts[f] += starts[f - 1]
    place = starts[:-1].copy()
    for i in range(len(offsets) - 1):
        for e in range(offsets[i], offsets[i + 1]):
            p = place[indices[e]]
            rows[p], entries[p] = i, e
            place[indices[e]] = p + 1


@loop(parallel=True, fastmath=REASSOCIATED)
def weighted_sums(
    starts: np.ndarray, rows: np.ndarray, entries: np.ndarray, weights: np.ndarray,
    x: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """For every feature the sum of its entries' rows of `x`, weighted: one row of `out` each."""
    for f in prange(len(starts) - 1):
        total, end = out[f], starts[f + 1]
        total[:] = 0.0
        for p in range(starts[f], end - 1, 2):  # `total` is read and written half as often
            row, weight = x[rows[p]], weights[entries[p]]
            next_row, next_weight = x[rows[p + 1]], weights[entries[p + 1]]
            for j in range(len(total)):
                total[j] += weight * row[j] + next_weight * next_row[j]
        if (end - starts[f]) % 2:
            row, weight = x[rows[end - 1]], weights[entries[end - 1]]
            for j in range(len(total)):
                total[j] += weight * row[j]


@loop(parallel=True, fastmath=REASSOCIATED)
def dots(
    starts: np.ndarray, rows: np.ndarray, entries: np.ndarray,
    x: np.ndarray, atoms: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """For every entry its row of `x` times its feature's atom, which is read once for two."""
    for f in prange(len(starts) - 1):
        atom, end = atoms[f], starts[f + 1]
        for p in range(starts[f], end - 1, 2):
            row, next_row = x[rows[p]], x[rows[p + 1]]
            dot, next_dot = row[0] * atom[0], next_row[0] * atom[0]
            for j in range(1, len(atom)):
                dot += row[j] * atom[j]
                next_dot += next_row[j] * atom[j]
            out[entries[p]], out[entries[p + 1]] = dot, next_dot
        if (end - starts[f]) % 2:
            row = x[rows[end - 1]]
            dot = row[0] * atom[0]
            for j in range(1, len(atom)):
                dot += row[j] * atom[j]
            out[entries[end - 1]] = dot


@loop(parallel=True, fastmath=REASSOCIATED)
def dots_and_weighted_sums(
    starts: np.ndarray, rows: np.ndarray, entries: np.ndarray, weights: np.ndarray,
    x: np.ndarray, atoms: np.ndarray, out_dots: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """`weighted_sums`, and for every entry its row of `x` times its feature's atom, in one pass."""
    for f in prange(len(starts) - 1):
        total, atom, end = out[f], atoms[f], starts[f + 1]
        total[:] = 0.0
        for p in range(starts[f], end - 1, 2):
            row, weight = x[rows[p]], weights[entries[p]]
            next_row, next_weight = x[rows[p + 1]], weights[entries[p + 1]]
            dot, next_dot = row[0] * atom[0], next_row[0] * atom[0]
            total[0] += weight * row[0] + next_weight * next_row[0]
            for j in range(1, len(total)):
                dot += row[j] * atom[j]
                next_dot += next_row[j] * atom[j]
                total[j] += weight * row[j] + next_weight * next_row[j]
            out_dots[entries[p]], out_dots[entries[p + 1]] = dot, next_dot
        if (end - starts[f]) % 2:
            row, weight = x[rows[end - 1]], weights[entries[end - 1]]
            dot = row[0] * atom[0]
            total[0] += weight * row[0]
            for j in range(1, len(total)):
                dot += row[j] * atom[j]
                total[j] += weight * row[j]
            out_dots[entries[end - 1]] = dot
