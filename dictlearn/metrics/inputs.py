"""Checks of the two tensors that a metric compares: equal shapes, and enough precision."""

import torch
from torch import Tensor

from dictlearn.core.errors import InputError


def precise(x: Tensor) -> Tensor:
    """`x` in at least single precision: sums of half-precision terms lose digits.

    >>> precise(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_paired(truth: Tensor, estimate: Tensor) -> None:
    """Raise an `InputError` if the shapes differ: broadcasting would hide a mistake."""
    if truth.shape != estimate.shape:
        raise InputError(
            f"required an estimate of shape {tuple(truth.shape)}, got {tuple(estimate.shape)}; "
            "expand it first if it is meant to be repeated"
        )


def paired(truth: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors in at least single precision, if they have one shape (`require_paired`)."""
    require_paired(truth, estimate)
    return precise(truth), precise(estimate)
