"""95 % intervals from the variation of a metric between sequences.

Tokens within a sequence are dependent, so sequences are what varies. The standard error comes
from leaving one sequence out after the other, or from resampling them, and the quantile is
Student's, since percentiles of a bootstrap are too narrow for few sequences.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError

RESAMPLES = 4000
"""Default number of resamples for an interval or a p-value."""
CONFIDENCE = 0.95
"""The confidence level of every interval."""


class Interval(NamedTuple):
    """A value with the ends of its confidence interval, in units of the metric."""

    value: float
    low: float
    high: float


def jackknife_interval(value: float, left_out: Float[Tensor, " sequence"]) -> Interval:
    """The interval of a metric, given its value without each of the sequences.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 11.2. The ends are `nan`
    where a value is.

    >>> [round(x, 2) for x in jackknife_interval(2.0, torch.tensor([2.5, 2.0, 1.5]))]
    [2.0, -0.48, 4.48]
    """
    n, apart = len(left_out), left_out.double() - left_out.double().mean()
    if n < 2:
        return Interval(value, math.nan, math.nan)
    return _student(value, math.sqrt((n - 1) / n * float(apart.square().sum())), n)


def bootstrap_interval(
    value: float, resampled: Float[Tensor, " resample"], n_sequences: int
) -> Interval:
    """The interval of a metric, given its values in bootstrap resamples of the sequences.

    For metrics that jump when one sequence is left out, such as quantiles. Section 6.2 there, with
    the error of resamples, which have n - 1 sequences' worth of variance, brought to n.
    """
    error = float(resampled.double().std()) * math.sqrt(n_sequences / (n_sequences - 1))
    return _student(value, error, n_sequences)


def _student(value: float, error: float, n_sequences: int) -> Interval:
    margin = student_quantile(n_sequences - 1) * error
    return Interval(value, value - margin, value + margin)


@cache
def student_quantile(freedom: float | int) -> float:
    """The half-width of a 95 % interval in standard errors, for these degrees of freedom.

    >>> round(student_quantile(3), 2)
    3.18
    """
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def bootstrap_weights(
    n_sequences: int, n_resamples: int = RESAMPLES, seed: int = 0
) -> Float[Tensor, "resample sequence"]:
    """The number of times that each sequence is drawn in each resample, with replacement.

    Raises:
        InputError: there are fewer than two sequences.
    """
    if n_sequences < 2:
        raise InputError(
            f"an interval needs at least 2 sequences to resample, got {n_sequences}; evaluate on "
            "more tokens"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_sequences, (n_resamples, n_sequences), generator=generator)
    ones = torch.ones(1, dtype=torch.float64).expand(drawn.shape)
    zeros = torch.zeros(n_resamples, n_sequences, dtype=torch.float64)
    return zeros.scatter_add_(1, drawn, ones)
