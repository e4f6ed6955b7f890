"""Scores `x @ W + b` a tile of rows at a time, in memory that the next tile reuses."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

_TILE = 1 << 22
"""Scores in a tile: 16 MB in float32, about what the last cache of a processor holds."""
_TILE_ELSEWHERE = 1 << 28
"""Scores in a tile on other devices: 1 GB, so that each launch has work for all of a GPU."""
_MIN_ROWS = 128
"""Rows in a tile at least: a product with fewer would read `W` too often."""


def score_tiles(
    x: Float[Tensor, "n d_in"], W: Float[Tensor, "d_in feature"], b: Float[Tensor, " feature"]
) -> Iterator[tuple[slice, Float[Tensor, "m feature"]]]:
    """The scores of some rows after the other, in memory that the next tile reuses."""
    size = tile_rows(x, len(b))
    if torch.is_autocast_enabled(x.device.type):  # which chooses the dtype of a new tensor only
        for rows in row_slices(len(x), size):
            yield rows, torch.addmm(b, x[rows], W).to(x.dtype)
        return
    buffer = x.new_empty(size, len(b))
    for rows in row_slices(len(x), size):
        yield rows, torch.addmm(b, x[rows], W, out=buffer[: rows.stop - rows.start])


def tile_rows(x: Float[Tensor, "n d_in"], n_features: int) -> int:
    """The number of rows of scores in a tile."""
    size = _TILE if x.device.type == "cpu" else _TILE_ELSEWHERE
    return min(len(x), max(_MIN_ROWS, size // n_features))


def row_slices(n: int, size: int, first: int | None = None) -> Iterator[slice]:
    """`n` rows in slices of at most `size`, the first of at most `first`; one, empty, of no rows.

    But for the first they are of one size, or almost: a product with very few rows would add the
    terms of its entries in another order.
    """
    stop = min(n, size, first or size)
    yield slice(0, stop)
    if stop < n:
        n_slices = -(-(n - stop) // size)
        for i in range(n_slices):
            start, end = (stop + (n - stop) * j // n_slices for j in (i, i + 1))
            yield slice(start, end)
