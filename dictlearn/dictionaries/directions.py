"""Directions of unit norm as the rows of a matrix."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize


def remove_radial_gradient_(W: nn.Parameter) -> None:
    """Remove the radial component of the gradient of each row of `W`."""
    if W.grad is not None:
        along = torch.einsum("fd,fd->f", W.grad, W)  # `vecdot` makes a matrix of the products
        W.grad.addcmul_(W, along.unsqueeze(1), value=-1)


def normalize_rows_(W: nn.Parameter) -> None:
    """Scale each row of `W` to unit norm."""
    norms = torch.linalg.vector_norm(W, dim=1, keepdim=True)
    W.div_(norms.clamp_min_(1e-12))


def random_directions(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "{n} {d}"]:
    """`n` directions, uniform on the unit sphere in `d` dimensions."""
    return normalize(torch.randn(n, d, generator=generator), dim=1)
