"""95 % intervals from the variation of a metric between sequences.

Tokens within a sequence are dependent, so sequences are what varies. The standard error comes
from leaving one sequence out after the other, and the quantile is Student's, since percentiles of a
bootstrap are too narrow for few sequences.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 4000
"""Default number of resamples for a p-value."""
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


class Jackknifed(NamedTuple):
    """A proportion, such as a precision, with its value without each of the sequences."""

    value: float
    left_out: Float[Tensor, " sequence"]

    @property
    def interval(self) -> Interval:
        """The interval of the proportion, symmetric in its log odds.

        Proportions near 0 or 1 are skewed, their log odds hardly. If few sequences make most of
        the variation, it is uncertain itself, and Student's distribution has fewer degrees of
        freedom: those of a chi-squared variable with the same mean and variance as the squared
        error (Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance
        Components"). The ends are `nan` at 0 and 1, where no sequence differs, or one is undefined.

        >>> [round(x, 2) for x in Jackknifed(0.5, torch.tensor([0.6, 0.5, 0.4])).interval]
        [0.5, 0.12, 0.88]
        """
        squares = self._apart.square()
        total = float(squares.sum())
        if not (0 < self.value < 1 and total > 1e-20):
            return Interval(self.value, math.nan, math.nan)
        n = len(squares)
        unequal = float(squares.square().sum()) - total**2 / n
        freedom = min(n - 1.0, max(1.0, 2 * total**2 / unequal)) if unequal > 0 else n - 1.0
        odds = math.log(self.value / (1 - self.value))
        error = math.sqrt((n - 1) / n * total) / (self.value * (1 - self.value))
        ends = torch.tensor([-1.0, 1.0], dtype=torch.float64) * student_quantile(freedom) * error
        return Interval(self.value, *(odds + ends).sigmoid().tolist())

    def minus(self, other: "Jackknifed") -> Interval:
        """The difference of two proportions on the same sequences, with its interval.

        The ends follow from those of both and from the correlation over sequences: Zou 2007,
        "Toward Using Confidence Intervals to Compare Correlations", equation 15.
        """
        first, second = self.interval, other.interval
        a, b = self._apart, other._apart
        correlation = float((a @ b) / (a.norm() * b.norm()))
        difference = self.value - other.value

        def margin(own: float, rival: float) -> float:
            square = own**2 + rival**2 - 2 * correlation * own * rival
            return math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.nan

        return Interval(
            difference,
            difference - margin(first.value - first.low, second.high - second.value),
            difference + margin(first.high - first.value, second.value - second.low),
        )

    @property
    def _apart(self) -> Float[Tensor, " sequence"]:
        return self.left_out.double() - self.left_out.double().mean()


def _student(value: float, error: float, n_sequences: int) -> Interval:
    margin = student_quantile(n_sequences - 1) * error
    return Interval(value, value - margin, value + margin)


@lru_cache(maxsize=4096)
def student_quantile(freedom: float | int) -> float:
    """The half-width of a 95 % interval in standard errors, for these degrees of freedom.

    >>> round(student_quantile(3), 2)
    3.18
    """
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))
