"""Loops over gathered rows for GPUs, compiled by Triton; loaded only where Triton is installed.

No sum uses atomic additions: one program owns each row of a result, or a part of its columns, and
adds its terms in the order given, so that a result is the same to the bit every time. Sums are
taken in float32, and in float64 where that is the dtype of the rows.
"""

from __future__ import annotations  # Triton reads their names

import inspect
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl
else:  # until `_loops` puts the module here, where compiled functions look for it
    tl = SimpleNamespace(constexpr=Any, tensor=Any)
_BLOCK = 512
"""Columns of a row that one program works on at once, at most."""
_LEAST_BLOCK = 16


def is_installed() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


def weighted_sums(
    starts: Int[Tensor, " m_plus_1"],
    rows: Int[Tensor, " nnz"],
    weights: Float[Tensor, " nnz"],
    x: Float[Tensor, "n d"],
) -> Float[Tensor, "m d"]:
    """For group `i` the sum over its entries `starts[i]:starts[i + 1]` of weight times row."""
    x, out = x.contiguous(), x.new_empty(len(starts) - 1, x.shape[1])
    block = _block(x)
    if out.numel():
        with torch.cuda.device_of(x):
            _loops().weighted_sums[len(out), -(-x.shape[1] // block)](
                starts, rows.contiguous(), weights.contiguous(), x, out, x.shape[1],
                BLOCK=block, SUM=_sum_dtype(x),
            )  # fmt: skip
    return out


def dots(
    x_rows: Int[Tensor, " nnz"],
    y_rows: Int[Tensor, " nnz"],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
) -> Float[Tensor, " nnz"]:
    """For every entry its row of `x` times its row of `y`; neither is copied."""
    x, y, out = x.contiguous(), y.contiguous(), x.new_empty(len(x_rows))
    if len(out):
        with torch.cuda.device_of(x):
            _loops().dots[(len(out),)](
                x_rows.contiguous(), y_rows.contiguous(), x, y, out, x.shape[1],
                BLOCK=_block(x), SUM=_sum_dtype(x),
            )  # fmt: skip
    return out


def _weighted_sums(
    starts: tl.tensor, rows: tl.tensor, weights: tl.tensor, x: tl.tensor, out: tl.tensor,
    d: tl.tensor, BLOCK: tl.constexpr, SUM: tl.constexpr,
) -> None:  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < d
    total = tl.zeros((BLOCK,), SUM)
    for p in range(tl.load(starts + group), tl.load(starts + group + 1)):
        row, weight = tl.load(rows + p), tl.load(weights + p).to(SUM)
        total += weight * tl.load(x + row * d + columns, mask=inside, other=0.0).to(SUM)
    tl.store(out + group * d + columns, total.to(out.dtype.element_ty), mask=inside)


def _dots(
    x_rows: tl.tensor, y_rows: tl.tensor, x: tl.tensor, y: tl.tensor, out: tl.tensor, d: tl.tensor,
    BLOCK: tl.constexpr, SUM: tl.constexpr,
) -> None:  # fmt: skip
    entry = tl.program_id(0).to(tl.int64)
    x_row, y_row = x + tl.load(x_rows + entry) * d, y + tl.load(y_rows + entry) * d
    total = tl.zeros((BLOCK,), SUM)
    for first in range(0, d, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < d
        a = tl.load(x_row + columns, mask=inside, other=0.0).to(SUM)
        total += a * tl.load(y_row + columns, mask=inside, other=0.0).to(SUM)
    tl.store(out + entry, tl.sum(total, axis=0).to(out.dtype.element_ty))


@cache
def _loops() -> SimpleNamespace:
    """The loops, compiled when first called, as written and without what a type checker added."""
    global tl
    import triton
    import triton.language as tl

    functions = {"weighted_sums": _weighted_sums, "dots": _dots}
    return SimpleNamespace(
        **{name: triton.jit(inspect.unwrap(function)) for name, function in functions.items()}
    )


def _block(x: Float[Tensor, "n d"]) -> int:
    """The least power of 2 that covers a row, within limits."""
    return min(_BLOCK, max(_LEAST_BLOCK, 1 << (x.shape[1] - 1).bit_length()))


def _sum_dtype(x: Float[Tensor, "n d"]) -> Any:
    _loops()
    return tl.float64 if x.dtype == torch.float64 else tl.float32
