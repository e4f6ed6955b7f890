"""Exact gradients of the few scores that were selected, without a dense [n, feature] gradient."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


class _SelectedScores(torch.autograd.Function):
    """Entries of `x @ W + b`, read from the finished product; see `selected_scores`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, b: Tensor, pre: Tensor, offsets: Tensor, indices: Tensor
    ) -> Tensor:
        rows = torch.repeat_interleave(offsets.diff())
        ctx.save_for_backward(x, W, offsets, indices, rows)
        return pre[rows, indices]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, W, offsets, indices, rows = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        needs_x, needs_W, needs_b = ctx.needs_input_grad[:3]
        grad_x = grad_W = grad_b = None
        if needs_x:
            grad_x = _bag(indices, W.T, offsets[:-1], gradient)
        if needs_W:
            # Entries in order of their feature turn a scatter into a gather: no atomics, and
            # every row of the result is written once.
            order = indices.argsort()
            bounds = torch.searchsorted(indices[order], torch.arange(W.shape[1], device=W.device))
            grad_W = _bag(rows[order], x, bounds, gradient[order]).T
        if needs_b:
            grad_b = gradient.new_zeros(W.shape[1]).index_add_(0, indices, gradient)
        return grad_x, grad_W, grad_b, None, None, None


def selected_scores(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    pre: Float[Tensor, "n feature"],
    offsets: Int[Tensor, " n_plus_1"],
    indices: Int[Tensor, " nnz"],
) -> Float[Tensor, " nnz"]:
    """The entries of `pre = x @ W + b` at a sparse pattern, differentiable in `x`, `W` and `b`.

    Row `i` of the pattern owns `indices[offsets[i]:offsets[i + 1]]`. `pre` is given because the
    selection needed it; it takes no part in the graph. The gradients are those of the dense
    product, at the cost of the selected entries only.
    """
    return _SelectedScores.apply(x, W, b, pre.detach(), offsets, indices)


def _bag(
    indices: Int[Tensor, " nnz"],
    rows: Float[Tensor, "m d"],
    starts: Int[Tensor, " bag"],
    weights: Float[Tensor, " nnz"],
) -> Float[Tensor, "bag d"]:
    """Weighted sums of `rows`, one for each run of `indices` that begins at `starts`."""
    return embedding_bag(indices, rows.contiguous(), starts, mode="sum", per_sample_weights=weights)
