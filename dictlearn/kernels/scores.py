"""Exact gradients of the few scores that were found, without a dense [n, feature] gradient."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import gathering
from dictlearn.kernels.entries import by_feature


class _Scores(torch.autograd.Function):
    """Entries of `(x - centre) @ W + b` that are known already; see `differentiable_scores`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        b: Tensor,
        centre: Tensor | None,
        offsets: Tensor,
        indices: Tensor,
        values: Tensor,
    ) -> Tensor:
        """The known entries."""
        ctx.save_for_backward(x, W, centre, offsets, indices)
        return values.clone()

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients in rows, encoder, biases and centre."""
        x, W, centre, offsets, indices = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        needs_x, needs_W, _, needs_centre = ctx.needs_input_grad[:4]
        grad_x = grad_W = grad_centre = None
        grad_b = gradient.new_zeros(W.shape[1]).index_add_(0, indices, gradient)
        if needs_x:
            sums = gathering.loops(gradient, W).weighted_sums
            grad_x = sums(offsets, indices, gradient, W.T.contiguous())
        if needs_W:
            # Laid out as `LinearDictionary` keeps its encoder: one feature after the other.
            entries = by_feature(SparseActs(offsets, indices, gradient, W.shape[1]))
            grad_features = entries.weighted_sums(gradient, x)
            if centre is not None:
                grad_features.addr_(grad_b, centre, alpha=-1)
            grad_W = grad_features.T
        if needs_centre:
            grad_centre = -(W @ grad_b)
        return grad_x, grad_W, grad_b, grad_centre, None, None, None


def differentiable_scores(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    found: SparseActs,
    centre: Float[Tensor, " d_in"] | None = None,
) -> SparseActs:
    """`found`, whose values are entries of `(x - centre) @ W + b`, differentiable in all four.

    The gradients are those of the dense product, at the cost of the entries found alone; that of
    `centre` costs one product of a matrix and a vector.
    """
    inputs = (x, W, b) if centre is None else (x, W, b, centre)
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        return found
    values: Float[Tensor, " nnz"] = _Scores.apply(
        x, W, b, centre, found.offsets, found.indices, found.values
    )
    return found.with_values(values)
