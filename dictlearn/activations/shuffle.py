"""A shuffled order over any number of rows that is computed, never held in memory.

Each (seed, epoch) keys a Feistel network on the grid of `a * b >= n_rows` cells: position
`(i, j)` goes through rounds that add a hash of `j` to `i` (mod a) and a hash of `i` to `j`
(mod b), each of them invertible. Cells past the last row are walked through until the cycle is
back among the rows (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
"""

import math

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from dictlearn.core.errors import InputError

_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1

Words = NDArray[np.uint64]


def shuffled_positions(seed: int, start: int, n: int, n_rows: int) -> Int[Tensor, " n"]:
    """The rows at places `start` to `start + n` of an endless shuffled walk over `n_rows` rows.

    Epoch `place // n_rows` visits every row once, in its own pseudo-random order. The answer
    depends on the arguments alone; time and memory are proportional to `n`, not to `n_rows`.

    Raises:
        InputError: there are no rows, or a place is negative.

    >>> sorted(shuffled_positions(seed=0, start=10, n=5, n_rows=5).tolist())
    [0, 1, 2, 3, 4]
    """
    if n_rows < 1 or start < 0 or n < 0:
        raise InputError(
            f"required at least 1 row and places from 0 on, got n_rows={n_rows}, start={start}, "
            f"n={n}"
        )
    epoch, place = np.divmod(np.arange(start, start + n, dtype=np.uint64), np.uint64(n_rows))
    keys = _mixed(_mixed(np.array([seed & _MASK], np.uint64)) ^ epoch)
    rows = _permuted(place, keys, n_rows)
    while (outside := np.flatnonzero(rows >= n_rows)).size:
        rows[outside] = _permuted(rows[outside], keys[outside], n_rows)
    return torch.from_numpy(rows.astype(np.int64))


def _permuted(cells: Words, keys: Words, n_rows: int) -> Words:
    a = np.uint64(math.isqrt(n_rows - 1) + 1)
    b = np.uint64(-(-n_rows // int(a)))
    i, j = np.divmod(cells, b)
    for _ in range(_ROUNDS // 2):
        keys = _mixed(keys)
        i = (i + _mixed(j ^ keys) % a) % a
        keys = _mixed(keys)
        j = (j + _mixed(i ^ keys) % b) % b
    return i * b + j


def _mixed(words: Words) -> Words:
    """A bijective hash of 64-bit words: the output function of splitmix64 (Steele et al. 2014)."""
    words = words + np.uint64(_GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
