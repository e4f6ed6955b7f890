"""Reconstruction metrics over the rows given, for use in notebooks and own code.

An evaluation pools the same quantities over its whole token set (`metrics.pooled`).
"""

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.metrics.inputs import paired
from dictlearn.metrics.rows import cosine_similarity, squared_error


def fraction_variance_unexplained(
    y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]
) -> Float[Tensor, ""]:
    """Squared error of `y_hat` divided by the total variance of `y`.

    `sum_i ||y_i - y_hat_i||^2 / sum_i ||y_i - mean(y)||^2`. Variance is taken about the
    per-dimension mean over the `n` rows given, so predicting that mean scores 1.0, a perfect
    estimate 0.0, and a bad one can exceed 1.0. Lower is better; unchanged by one scale or one
    shift of both.

    Raises:
        InputError: the shapes differ, or `y` is constant across rows, so there is no variance
            to explain.

    >>> import torch
    >>> y = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    >>> fraction_variance_unexplained(y, y.mean(dim=0).expand_as(y)).item()
    1.0
    """
    y, y_hat = paired(y, y_hat)
    if (y == y[:1]).all():
        raise InputError(
            f"required rows that differ, got {y.shape[0]} equal rows: there is no variance to "
            "explain; pass more rows"
        )
    mean = y.mean(dim=0).expand_as(y)
    return squared_error(y, y_hat).sum() / squared_error(y, mean).sum()


def norm_ratio(y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]) -> Float[Tensor, ""]:
    """The summed norms of the estimates divided by those of the targets.

    `sum_i ||y_hat_i|| / sum_i ||y_i||`. 1.0 keeps the norm; below 1 the estimate shrinks, as L1
    penalties make it do. Neither direction is better.

    Raises:
        InputError: the shapes differ, or every row of `y` is zero.

    >>> import torch
    >>> y = torch.tensor([[3.0, 4.0]])
    >>> norm_ratio(y, y / 2).item()
    0.5
    """
    y, y_hat = paired(y, y_hat)
    total = y.norm(dim=1).sum()
    if total == 0:
        raise InputError(f"required a row that is not zero, got {y.shape[0]} zero rows")
    return y_hat.norm(dim=1).sum() / total


def mean_cosine_similarity(
    y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]
) -> Float[Tensor, ""]:
    """The cosine similarity of `y_hat` to `y`, averaged over rows.

    In [-1, 1], higher is better; a row in which either is zero counts as 0.

    Raises:
        InputError: the shapes differ, or there are no rows.

    >>> import torch
    >>> y = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> mean_cosine_similarity(y, torch.tensor([[3.0, 0.0], [0.0, 0.0]])).item()
    0.5
    """
    if y.shape[0] == 0:
        raise InputError("required at least one row to average over, got none")
    return cosine_similarity(y, y_hat).mean()
