"""Products of rounded factors, which take less time, and how far they are from the exact ones."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int8, Int32, UInt16
from torch import Tensor

from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.kernels import compiled_rounded, processor
from dictlearn.kernels.native import is_native, run
from dictlearn.kernels.tiles import row_slices, tile_rows

_ROUNDED_WIDTH = 128
"""Narrower inputs make the product too cheap for bounds to pay."""
_MIN_ROWS = 64
"""Fewer rows do not pay for rounding the weights."""


class RoundedTile(NamedTuple):
    """A product of rounded factors, and what tells how far its entries are from the exact ones."""

    products: UInt16[Tensor, "m feature"]
    """bfloat16, as bits."""
    x_errors: Float[Tensor, " m"]
    x_norms: Float[Tensor, " m"]
    w_errors: Float[Tensor, " feature"]
    w_norms: Float[Tensor, " feature"]


def rounded_tiles(
    x: Float[Tensor, "n d_in"], weights: Float[Tensor, "feature d_in"]
) -> Iterator[tuple[slice, RoundedTile]]:
    """The rounded products of some rows after the other, in memory that the next tile reuses."""
    x16, x_errors, x_norms = _to_bfloat16(x)
    w16, w_errors, w_norms = _to_bfloat16(weights)
    # Sums of d products in float32 are off by that many roundings of their own.
    x_errors = x_errors + x.shape[1] * torch.finfo(torch.float32).eps * x_norms
    buffer = torch.empty(tile_rows(x, len(weights)), len(weights), dtype=torch.bfloat16)
    for rows in row_slices(len(x), len(buffer)):
        products = torch.mm(x16[rows], w16.T, out=buffer[: rows.stop - rows.start])
        bits = products.view(torch.uint16)
        yield rows, RoundedTile(bits, x_errors[rows], x_norms[rows], w_errors, w_errors + w_norms)


def rounding_pays(x: Float[Tensor, "n d_in"], W: Float[Tensor, "d_in feature"]) -> bool:
    """Whether a bfloat16 product and the work it leaves take less time than an exact product."""
    return (
        shortcuts_allowed()
        and is_native(x, W)
        and x.dtype == W.dtype == torch.float32
        and x.shape[1] >= _ROUNDED_WIDTH
        and len(x) >= _MIN_ROWS
        and processor.multiplies_bfloat16()
    )


def _to_bfloat16(
    x: Float[Tensor, "n d"],
) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Each row rounded, the norm of what that took from it, and the norm of what is left."""
    out, errors, norms = x.bfloat16(), x.new_empty(len(x)), x.new_empty(len(x))
    run(compiled_rounded.to_bfloat16, x.contiguous(), out.view(torch.uint16), errors, norms)
    return out, errors, norms


def to_int8(x: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float[Tensor, " n"]]:
    """Each row rounded to whole units of its largest magnitude / 127, and those units."""
    out, scales = torch.empty_like(x, dtype=torch.int8), x.new_empty(len(x))
    run(compiled_rounded.to_int8, x.contiguous(), out, scales)
    return out, scales


def int8_products_(
    products: Int32[Tensor, "m feature"], x8: Int8[Tensor, "m d"], w8: Int8[Tensor, "feature d"]
) -> None:
    """Write `x8 @ w8.T` to `products`.

    Without VNNI, torch has no fast product, or (with oneDNN capped below it) one that adds pairs of
    products in 16 bits, where they saturate. Sums in float32 are exact up to a width of 1040.
    """
    if processor.multiplies_int8():
        torch._int_mm(x8, w8.T, out=products)
    else:
        products.copy_(x8.float() @ w8.T.float())
