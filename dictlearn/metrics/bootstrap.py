"""The bootstrap over sequences: the variation of a metric under resampling of sequences."""

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


def central(resampled: Float[Tensor, " resample"]) -> tuple[float, float]:
    """The quantiles that enclose the middle 95 % of the resampled values.

    `nan` if a value is `nan`.

    >>> [round(end) for end in central(torch.arange(41.0))]
    [1, 39]
    """
    tail = (1 - CONFIDENCE) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(resampled.double(), ends).tolist()
    return low, high
