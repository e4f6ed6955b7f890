"""Positive scores of all features and their estimate, with gradients a tile of rows at a time."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dictlearn.kernels.tiles import row_slices

_TILE = 1 << 24
"""Entries in a tile of the gradient in the coefficients: 64 MB in float32."""


class _ReLU(torch.autograd.Function):
    """`acts = relu((x - centre) @ W + b)` and `acts @ atoms`; see `relu_estimate`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W: Tensor, b: Tensor, centre: Tensor | None, atoms: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Coefficients and estimate."""
        offset = b if centre is None else b - torch.mv(W.T, centre)
        acts = torch.addmm(offset, x, W).relu_()
        ctx.save_for_backward(x, W, centre, atoms, acts)
        ctx.set_materialize_grads(False)  # zeros for coefficients that no term of a loss reads
        return acts, acts @ atoms

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients in rows, encoder, biases, centre and atoms."""
        x, W, centre, atoms, acts = ctx.saved_tensors
        # Under autocast coefficients are of its dtype, and so are all products.
        x, features, directions = (t.to(acts.dtype) for t in (x, W.T, atoms))
        n, n_features = acts.shape
        zero, (of_acts, of_estimate) = acts.new_zeros(()), gradients
        of_acts = zero.expand_as(acts) if of_acts is None else of_acts
        of_estimate = zero.expand(n, atoms.shape[1]) if of_estimate is None else of_estimate
        needs_x, _, _, needs_centre, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if needs_x else None
        grad_features, grad_atoms = torch.empty_like(features), torch.empty_like(directions)
        grad_b = acts.new_zeros(n_features)
        size = max(1, _TILE // n_features)
        buffer = acts.new_empty(min(n, size), n_features)
        for rows in row_slices(n, size):
            own = buffer[: rows.stop - rows.start]
            torch.addmm(of_acts[rows], of_estimate[rows], directions.T, out=own)
            own.masked_fill_(acts[rows] <= 0, 0.0)
            first = float(rows.start > 0)  # the first tile overwrites what is not initialized
            grad_features.addmm_(own.T, x[rows], beta=first)
            grad_atoms.addmm_(acts[rows].T, of_estimate[rows], beta=first)
            grad_b += own.sum(dim=0)
            if grad_x is not None:
                torch.mm(own, features, out=grad_x[rows])
        if centre is not None:
            grad_features.addr_(grad_b, centre.to(acts.dtype), alpha=-1)
        grad_centre = -(features.T @ grad_b) if needs_centre else None
        return grad_x, grad_features.T, grad_b, grad_centre, grad_atoms


def relu_estimate(
    x: Float[Tensor, "n d_in"],
    W: Float[Tensor, "d_in feature"],
    b: Float[Tensor, " feature"],
    centre: Float[Tensor, " d_in"] | None,
    atoms: Float[Tensor, "feature d_out"],
) -> tuple[Float[Tensor, "n feature"], Float[Tensor, "n d_out"]]:
    """The coefficients `relu((x - centre) @ W + b)`, and the estimate `coefficients @ atoms`.

    A step of autograd on the same products holds the gradient in the coefficients, as large as
    they are, several times. Here it is computed, used and overwritten a tile of rows at a time. A
    gradient that an objective has in the coefficients is added to it, and takes no memory either
    if it is that of a sum over rows, which broadcasts.
    """
    acts, estimate = _ReLU.apply(x, W, b, centre, atoms)
    return acts, estimate
