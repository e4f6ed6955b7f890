"""Products of rounded factors, which take less time, and how far they are from the exact ones."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Int8, Shaped
from torch import Tensor

from dictlearn.kernels import compiled_rounded, processor
from dictlearn.kernels.native import run
from dictlearn.kernels.tiles import row_slices, tile_rows

MOST_WIDE = 1 << 16
"""Sums of more products of bytes may not fit into 32 bits."""
_FIRST_ROWS = 64
"""Rows in the first tile, which show whether bounds exclude enough."""
_EPS = torch.finfo(torch.float32).eps
_SMALLEST_SCALE = 1e-30
"""Units of rows smaller than this are not representable: such rows are rounded to zero."""
_UNDERFLOW = 2.0**-62
"""More than an entry whose square vanishes, or loses digits, in float32."""


class RoundedTile(NamedTuple):
    """A product of rounded factors, and what tells how far its entries are from the exact ones.

    A score is off the product, in units of its row, by at most `x_errors * w_norms + x_norms *
    w_errors`, and by rounding of the numbers themselves, relative to their magnitude.
    """

    products: Shaped[Tensor, "m feature"]
    """In float32, or in bfloat16, of which they are the bits (`uint16`)."""
    x_scales: Float[Tensor, " m"]
    """The unit of each row."""
    precision: float
    """How far a product may be from its own rounded value, relative to the latter."""
    x_errors: Float[Tensor, " m"]
    x_norms: Float[Tensor, " m"]
    w_errors: Float[Tensor, " feature"]
    w_norms: Float[Tensor, " feature"]

    def select(self, rows: Int[Tensor, " l"]) -> "RoundedTile":
        """The tile of these rows."""
        own = {name: getattr(self, name)[rows] for name in ("x_scales", "x_errors", "x_norms")}
        return self._replace(products=self.products[rows], **own)


Tiles: TypeAlias = Callable[[Tensor, Tensor], Iterator[tuple[slice, RoundedTile]]]
"""A function of rows `x` [n, d_in] and weights [feature, d_in]: rounded products of some rows after
the other, in memory that the next tile may reuse."""


class _Rounded(NamedTuple):
    """Rows in units of their own, with few bits."""

    values: Shaped[Tensor, "n d"]
    scales: Float[Tensor, " n"]
    errors: Float[Tensor, " n"]
    """The norm of what rounding took from each row; at least that, whatever float32 loses."""
    norms: Float[Tensor, " n"]
    """The norm of the rounded row, or more."""


def bfloat16_tiles(
    x: Float[Tensor, "n d_in"], weights: Float[Tensor, "feature d_in"]
) -> Iterator[tuple[slice, RoundedTile]]:
    """Products of rows and weights in bfloat16."""
    rows_of_x, w = _to_bfloat16(x), _to_bfloat16(weights)
    buffer = torch.empty(tile_rows(x, len(weights)), len(weights), dtype=torch.bfloat16)
    for rows in row_slices(len(x), len(buffer), _FIRST_ROWS):
        out = buffer[: rows.stop - rows.start]
        products = torch.mm(rows_of_x.values[rows], w.values.T, out=out)
        # Rounded in its eighth bit.
        yield rows, _tile(products.view(torch.uint16), rows_of_x, w, rows, 1 / 255)


def int8_tiles(
    x: Float[Tensor, "n d_in"], weights: Float[Tensor, "feature d_in"]
) -> Iterator[tuple[slice, RoundedTile]]:
    """Products of rows and weights in int8, the one with an offset that makes it unsigned.

    Processors without VNNI add pairs of products in 16 bits: there, rows and weights have so few
    levels that no pair saturates.
    """
    levels = processor.int8_levels()
    rows_of_x, w = _to_int8(x, levels), _to_int8(weights, levels)
    unsigned = rows_of_x.values.view(torch.uint8) + (levels + 1)  # wraps around
    packed = torch.ops.onednn.qlinear_prepack(w.values, None)
    zeros = torch.zeros(len(weights), dtype=torch.int64)
    for rows in row_slices(len(x), tile_rows(x, len(weights)), _FIRST_ROWS):
        products = torch.ops.onednn.qlinear_pointwise(
            unsigned[rows], 1.0, levels + 1, packed, w.scales, zeros, None, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        # Whole numbers become float32 and are multiplied by two units.
        yield rows, _tile(products, rows_of_x, w, rows, 4 * _EPS)


def _tile(
    products: Shaped[Tensor, "m feature"], x: _Rounded, w: _Rounded, rows: slice, precision: float
) -> RoundedTile:
    """The tile of some rows. Sums of d products in float32 are off by that many roundings."""
    own = (x.values.shape[1] + 8) * _EPS * x.norms[rows]
    errors = x.errors[rows] + own
    return RoundedTile(
        products, x.scales[rows], precision, errors, x.norms[rows], w.errors, w.errors + w.norms
    )


def _to_bfloat16(x: Float[Tensor, "n d"]) -> _Rounded:
    """Each row in bfloat16, all in the same unit."""
    out, errors, norms = x.bfloat16(), x.new_empty(len(x)), x.new_empty(len(x))
    run(compiled_rounded.to_bfloat16, x.contiguous(), out.view(torch.uint16), errors, norms)
    return _Rounded(out, torch.ones_like(errors), *_safe(errors, norms, x.shape[1]))


def _to_int8(x: Float[Tensor, "n d"], levels: int) -> _Rounded:
    """Each row in whole units of its largest magnitude / `levels`."""
    x, largest = x.contiguous(), x.new_empty(len(x))
    run(compiled_rounded.largest_magnitudes, x, largest.view(torch.int32))
    scales = (largest / levels).clamp_min(_SMALLEST_SCALE)
    out: Int8[Tensor, "n d"] = torch.empty_like(x, dtype=torch.int8)
    errors, norms = x.new_empty(len(x)), x.new_empty(len(x))
    run(compiled_rounded.to_int8, x, levels, scales, out, errors, norms)
    return _Rounded(out, scales, *_safe(errors, norms, x.shape[1]))


def _safe(
    errors: Float[Tensor, " n"], norms: Float[Tensor, " n"], d: int
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Upper bounds of norms whose squares were summed in float32, where they round or vanish."""
    least, more = d**0.5 * _UNDERFLOW, 1 + d * _EPS
    return errors * more + least, norms * more + least
