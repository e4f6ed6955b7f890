"""FVU over the rows given; an evaluation pools it over its whole token set (`metrics.pooled`)."""

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.metrics.inputs import paired
from dictlearn.metrics.rows import squared_error


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
