"""The search that takes least time on this processor: timed once, and kept in a file.

All exact searches of these sizes find the same features of finite scores (those above a bound: but
for scores that rounding puts on either side of it), so a stopwatch may choose between them; but
their scores differ in the last bits, by the order of sums. So a choice, once made, is kept for the
machine: the same run gives the same bits whether the machine is busy or not. What is timed is
processor time, of searches in turn, so that a busy machine slows all alike.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.kernels import kept, processor
from dictlearn.kernels.bounded import Top, bounded_top_k, dense_top_k, rescored_top_k
from dictlearn.kernels.native import is_native
from dictlearn.kernels.rounding import MOST_WIDE, Tiles, bfloat16_tiles, int8_tiles

_PAYS = 0.95
"""The time, over that of the plain search, below which another search is used."""
# These sizes are read off the table that `python -m benchmarks.bounds` prints.
_MIN_WIDTH = 256
"""Narrower inputs make a product too cheap for bounds to pay."""
_MIN_WEIGHTS = 1 << 21
"""Of fewer weights (512 inputs, 4,096 features), bounds cost as much as they spare, or more."""
_WEIGHTS_PER_CHOICE = 1 << 16
"""So many weights are needed for each of the k features that are searched for: the more are chosen,
the more scores are close to the k-th."""
INT8_WEIGHTS = 1 << 20
"""Weights from which the int8 search takes less time than that by all scores."""
MIN_ROWS = 1024
"""Fewer rows do not pay for rounding the weights."""
SIZES = (
    f"Bounds are used from {_MIN_WEIGHTS:,} weights (width times features) on, "
    f"{_WEIGHTS_PER_CHOICE:,} for each chosen feature, width {_MIN_WIDTH} and {MIN_ROWS:,} rows; "
    f"int8_search from {INT8_WEIGHTS:,} weights and as many rows on."
)
"""What is large enough for which search, in words."""
_TRIAL = (2048, 512, 8192, 32)
"""Rows, width, features and k of the searches that are timed."""
_ROUNDS = 8


@dataclass(frozen=True)
class Timings:
    """Times of searches over that of the exact search by a float32 product of all scores.

    None where this processor, or torch on it, does not have the product, or gives wrong sums.
    """

    machine: str
    """Processor, version of torch, and caps on instructions."""
    bfloat16: float | None = None
    """Of the exact search by bounds from a bfloat16 product."""
    int8: float | None = None
    """Of the exact search by bounds from an int8 product."""
    int8_search: float | None = None
    """Of the search among candidates from an int8 product (`FitConfig.int8_search`)."""

    def exact(self) -> Tiles | None:
        """The rounded products by which an exact search takes least time; None for none."""
        times = {bfloat16_tiles: self.bfloat16, int8_tiles: self.int8}
        paying = {tiles: t for tiles, t in times.items() if t is not None and t < _PAYS}
        return min(paying, key=lambda tiles: paying[tiles], default=None)

    def int8_search_pays(self) -> bool:
        """Whether the int8 search takes less time than the exact search that is used."""
        return self.int8_search is not None and self.int8_search < self._least_exact()

    def of_int8_search(self) -> str:
        """The time of the int8 search beside that of an exact one, as a clause."""
        if self.int8_search is None:
            return "torch has no int8 product"
        ratio = self.int8_search / self._least_exact()
        return f"it takes {ratio:.2f} times as long as an exact search"

    def _least_exact(self) -> float:
        return min(t for t in (self.bfloat16, self.int8, 1.0) if t is not None)


def rounding(
    x: Float[Tensor, "n d_in"], W: Float[Tensor, "d_in feature"], k: int = 0
) -> Tiles | None:
    """The rounded products whose bounds make an exact search faster, if any do.

    `k` is the number of features that are searched for in each row, or in the mean row; 0 where it
    is not known.
    """
    if not (
        shortcuts_allowed()
        and not torch.is_autocast_enabled("cpu")  # under which products of scores are rounded too
        and is_native(x, W)
        and x.dtype == W.dtype == torch.float32
        and _MIN_WIDTH <= x.shape[1] <= MOST_WIDE
        and len(x) >= MIN_ROWS
        and W.numel() >= max(_MIN_WEIGHTS, k * _WEIGHTS_PER_CHOICE)
    ):
        return None
    return timings().exact()


@cache
def timings() -> Timings:
    """The timings of this machine: those kept in `path()`, or new ones, which are then kept."""
    return kept.kept_or_measured(path(), measure, Timings)


def read(file: Path) -> Timings:
    """The timings in a file.

    Raises:
        CorruptFileError: the file is absent, of another format, or altered since it was written.
    """
    return kept.read(file, Timings)


def forget() -> None:
    """Remove the timings that are kept, so that the next search that asks for them times again.

    Where they cannot be removed, they stay.
    """
    kept.remove(path())
    timings.cache_clear()


def path() -> Path:
    """The file with the timings of this machine, in the user's folder for caches."""
    return kept.file_of("searches", processor.described())


def searches() -> dict[str, Callable[[Tensor, Tensor, Tensor, int], Top]]:
    """The searches of this processor besides that by all scores, by their names in `Timings`."""
    found: dict[str, Callable[[Tensor, Tensor, Tensor, int], Top]] = {}
    if processor.multiplies_bfloat16():
        found["bfloat16"] = partial(bounded_top_k, tiles=bfloat16_tiles)
    if processor.has_int8() and _sums_exactly():
        found["int8"] = partial(bounded_top_k, tiles=int8_tiles)
        found["int8_search"] = rescored_top_k
    return found


def measure() -> Timings:
    """Time the searches in turn, on random rows; a few seconds."""
    make = torch.Generator().manual_seed(0)
    n, d, n_features, k = _TRIAL
    x, W = torch.randn(n, d, generator=make), torch.randn(n_features, d, generator=make).T
    b, others = torch.zeros(n_features), searches()
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for turn in range(_ROUNDS if others else 0):
        plain = _seconds(partial(dense_top_k, x, W, b, k))
        for name, search in others.items():
            took = _seconds(partial(search, x, W, b, k))
            if turn:  # the first compiles
                ratios[name].append(took / plain)
    return Timings(processor.described(), **{n: round(median(r), 3) for n, r in ratios.items()})


def _seconds(search: Callable[[], object]) -> float:
    """The processor time of one call."""
    start = time.process_time()
    search()
    return time.process_time() - start


def _sums_exactly() -> bool:
    """Whether int8 products are right where 16 bits could not hold the sums of two of them."""
    make = torch.Generator().manual_seed(0)
    signs = torch.ones(128, _MIN_WIDTH)
    signs[2:] -= 2 * torch.randint(2, signs[2:].shape, generator=make)
    signs[1] = -1
    products = [tile.products for _, tile in int8_tiles(signs, signs)]
    levels = processor.int8_levels()  # every entry is its row's largest
    return torch.equal((torch.cat(products) * levels).round(), levels**2 * signs @ signs.T)
