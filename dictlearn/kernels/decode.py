"""Sparse coefficients times atoms, with gradients that touch active atoms only."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import gathering
from dictlearn.kernels.entries import by_feature


class _Decode(torch.autograd.Function):
    """`acts @ atoms`; see `decode`."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, atoms: Tensor, offsets: Tensor, indices: Tensor
    ) -> Tensor:
        """The product."""
        ctx.save_for_backward(values, atoms, offsets, indices)
        return gathering.loops(values, atoms).weighted_sums(offsets, indices, values, atoms)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients in values and atoms."""
        values, atoms, offsets, indices = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        entries = by_feature(SparseActs(offsets, indices, values, len(atoms)))
        needs_values, needs_atoms = ctx.needs_input_grad[:2]
        if not needs_atoms:
            return entries.dots(gradient, atoms), None, None, None
        if not needs_values:
            return None, entries.weighted_sums(values, gradient), None, None
        grad_values, grad_atoms = entries.dots_and_weighted_sums(values, gradient, atoms)
        return grad_values, grad_atoms, None, None


def decode(
    acts: Float[Tensor, "*n feature"] | SparseActs, atoms: Float[Tensor, "feature d_out"]
) -> Float[Tensor, "*n d_out"]:
    """`acts @ atoms`; of sparse coefficients with both gradients from one pass over entries."""
    if not isinstance(acts, SparseActs):
        return acts @ atoms
    return _Decode.apply(acts.values, atoms, acts.offsets, acts.indices)
