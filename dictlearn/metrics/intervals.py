"""95 % intervals from the variation of a metric between sequences.

Tokens within a sequence are dependent, so sequences are what varies. The standard error comes
from leaving one sequence out after the other, and the quantile is Student's, since percentiles of a
bootstrap are too narrow for few sequences.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    margin = student_quantile(n - 1) * math.sqrt((n - 1) / n * float(apart.square().sum()))
    return Interval(value, value - margin, value + margin)


class Jackknifed(NamedTuple):
    """A proportion, such as a precision, with its value without each of the sequences."""

    value: float
    left_out: Float[Tensor, " sequence"]
    weights: Int[Tensor, " sequence"]
    """Number of tokens of every sequence that the proportion is one of."""

    @property
    def interval(self) -> Interval:
        """The interval of the proportion (`proportion_ends`).

        >>> few, all_but_one = torch.tensor([4, 4, 4]), torch.tensor([0.6, 0.5, 0.4])
        >>> [round(x, 2) for x in Jackknifed(0.5, all_but_one, few).interval]
        [0.5, 0.12, 0.88]
        """
        value = torch.tensor(self.value, dtype=torch.float64)
        low, high = proportion_ends(value, self.left_out.double(), self.weights)
        return Interval(self.value, low.item(), high.item())

    def minus(self, other: "Jackknifed") -> Interval:
        """The difference of two proportions on the same sequences, with its interval.

        The ends follow from those of both and from the correlation over sequences, 0 if either
        does not vary: Zou 2007, "Toward Using Confidence Intervals to Compare Correlations",
        equation 15.
        """
        first, second = self.interval, other.interval
        a, b = (x.left_out.double() - x.left_out.double().mean() for x in (self, other))
        lengths = float(a.norm() * b.norm())
        correlation = float(a @ b) / lengths if lengths else 0.0
        difference = self.value - other.value

        def margin(own: float, rival: float) -> float:
            square = own**2 + rival**2 - 2 * correlation * own * rival
            return math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.nan

        return Interval(
            difference,
            difference - margin(first.value - first.low, second.high - second.value),
            difference + margin(first.high - first.value, second.value - second.low),
        )


def proportion_ends(
    value: Float[Tensor, "*b"],
    left_out: Float[Tensor, "*b sequence"],
    weights: Int[Tensor, "*b sequence"],
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """The low and high ends of the intervals of proportions.

    They are symmetric in log odds: proportions near 0 or 1 are skewed, their log odds hardly. If
    few sequences matter, the standard error is uncertain itself, and Student's distribution has
    fewer degrees of freedom, the smaller of two numbers. If few make most of the variation, it is
    that of a chi-squared variable with the mean and variance of the squared error (Satterthwaite
    1946, "An Approximate Distribution of Estimates of Variance Components"). If few have most of
    the tokens, it is one less than the effective number of sequences, `sum(w)^2 / sum(w^2)` (Kish
    1965, "Survey Sampling"), for proportions near 0, and one less than their number for those near
    1, which vary by the few exceptions, wherever most of the tokens are. Between, the proportion is
    the weight of the latter: simulated intervals contain the truth about as often as they say.

    At 0 and 1 no sequence differs from the others, so one end is the value, and the other the
    proportion at which as many independent sequences would be without exception in 2.5 % of texts:
    the rule of three (Hanley and Lippman-Hand 1983, "If Nothing Goes Wrong, Is Everything All
    Right?"), on the effective number of sequences and for two-sided intervals. Elsewhere, ends are
    `nan` where no sequence differs or a value is undefined.

    >>> ones = torch.ones(4)
    >>> low, high = proportion_ends(torch.tensor(1.0), ones, ones.int())
    >>> (round(low.item() ** 4, 3), high.item())
    (0.025, 1.0)
    """
    n, weights = left_out.shape[-1], weights.double()
    effective = weights.sum(-1).square() / weights.square().sum(-1)
    squares = (left_out - left_out.mean(-1, keepdim=True)).square()
    total = squares.sum(-1)
    unequal = (squares.square().sum(-1) - total.square() / n).clamp(min=0)
    among = torch.lerp(effective, (weights > 0).sum(-1).double(), value.nan_to_num())
    freedom = torch.minimum(2 * total.square() / unequal, among - 1).clamp(min=1)
    error = ((n - 1) / n * total).sqrt() / (value * (1 - value))
    error = torch.where(total > 1e-20, error, math.nan) * _student(freedom)
    low, high = (value.logit() - error).sigmoid(), (value.logit() + error).sigmoid()
    far, edge = ((1 - CONFIDENCE) / 2) ** (1 / effective), (value == 0) | (value == 1)
    return torch.where(edge, value * far, low), torch.where(edge, 1 - (1 - value) * far, high)


def student_quantile(freedom: float | int) -> float:
    """The half-width of a 95 % interval in standard errors, for these degrees of freedom.

    >>> round(student_quantile(3), 2)
    3.18
    """
    return _student(torch.tensor(freedom, dtype=torch.float64)).item()


def _student(freedom: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    from scipy.special import stdtrit

    return torch.as_tensor(stdtrit(freedom.numpy(), (1 + CONFIDENCE) / 2))
