"""The reported metrics, each a ratio of sums over the whole evaluation set.

An evaluation fills the sums of `SUMS` for every sequence; adding them up gives totals, and every
metric is the quotient of two totals (or of differences of totals). So a long sequence weighs as
much as its tokens do, nothing is clipped, and resampling sequences means resampling sums.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.metric import Metric

SUMS: Mapping[str, str] = {
    "rows": "counted rows",
    "l0": "active features",
    "l1": "absolute coefficients",
    "squared_error": "||y - y_hat||^2",
    "variance": "||y - mean||^2, with the mean over the whole evaluation set",
    "cosine": "cosine similarity of y_hat to y",
    "norm": "||y||",
    "norm_hat": "||y_hat||",
    "predictions": "counted next-token predictions",
    "cross_entropy_clean": "cross-entropy of the clean model",
    "cross_entropy_spliced": "cross-entropy with the estimate spliced in",
    "cross_entropy_zero": "cross-entropy with zeros spliced in",
    "cross_entropy_mean": "cross-entropy with the mean activation spliced in",
    "cross_entropy_resample": "cross-entropy with the activations of other tokens spliced in",
    "kl": "KL(clean || spliced)",
    "kl_zero": "KL(clean || zeros spliced in)",
    "top1_agreement": "predictions in which the clean and the spliced model agree",
}
"""What is summed over the counted positions of each sequence; losses are in nats."""


@dataclass(frozen=True)
class ReportedMetric:
    """One number of a record: its name, which direction is better, and what it says."""

    name: str
    better: Literal["lower", "higher", "neither"]
    description: str


@dataclass(frozen=True)
class PooledMetric(ReportedMetric):
    """One metric: `numerator / denominator`, each a sum or a difference `a - b` of sums."""

    numerator: str
    denominator: str
    undefined: str
    """Why there is no value where the denominator vanishes."""
    resampled: bool = True
    """Whether it follows from the sums of sequences, so that resampling them gives intervals."""

    @property
    def sums(self) -> frozenset[str]:
        """The sums that it takes."""
        return frozenset(f"{self.numerator} - {self.denominator}".split(" - "))

    def __call__(self, totals: Mapping[str, Tensor]) -> Tensor:
        """The metric, elementwise over leading axes; `nan` where the denominator vanishes.

        Raises:
            InputError: a sum that it needs is absent.
        """
        denominator = _evaluate(self.denominator, totals)
        ratio = _evaluate(self.numerator, totals) / denominator
        return torch.where((denominator != 0) & denominator.isfinite(), ratio, math.nan)


def _evaluate(difference: str, totals: Mapping[str, Tensor]) -> Tensor:
    names = difference.split(" - ")
    for name in names:
        if name not in totals:
            raise InputError(f"the sum {name!r} is required; {nearest(name, totals)}")
    first, *rest = (totals[name].double() for name in names)
    return first - rest[0] if rest else first


_NO_ROWS = "no rows were counted"
_NO_PREDICTIONS = "no next-token predictions were counted"
_NO_VARIANCE = "the target is constant, so there is no variance to explain"
_NO_LOSS = "the ablation does not change the cross-entropy, so there is nothing to recover"

METRICS: tuple[PooledMetric, ...] = (
    PooledMetric("l0", "lower", "Active features per token.", "l0", "rows", _NO_ROWS),
    PooledMetric("l1", "lower", "Absolute coefficients per token.", "l1", "rows", _NO_ROWS),
    PooledMetric(
        "dead_fraction", "lower", "Fraction of features active on no token of the evaluation.",
        "dead_features", "features", "no rows or no features were counted", resampled=False,
    ),
    PooledMetric(
        "fraction_variance_unexplained", "lower", "Squared error over variance: the mean gets 1.",
        "squared_error", "variance", _NO_VARIANCE,
    ),
    PooledMetric(
        "explained_variance", "higher", "One minus the fraction of variance unexplained.",
        "variance - squared_error", "variance", _NO_VARIANCE,
    ),
    PooledMetric("cosine", "higher", "Mean cosine of estimate and target.",
                 "cosine", "rows", _NO_ROWS),
    PooledMetric(
        "norm_ratio", "neither", "Summed norms of the estimates over those of the targets.",
        "norm_hat", "norm", "every target is zero",
    ),
    PooledMetric(
        "cross_entropy_clean", "lower", "Next-token loss of the clean model, in nats.",
        "cross_entropy_clean", "predictions", _NO_PREDICTIONS,
    ),
    PooledMetric(
        "cross_entropy_spliced", "lower", "Next-token loss with the estimate spliced in, in nats.",
        "cross_entropy_spliced", "predictions", _NO_PREDICTIONS,
    ),
    PooledMetric(
        "loss_recovered_zero", "higher", "Part of the loss of zero ablation that is recovered.",
        "cross_entropy_zero - cross_entropy_spliced", "cross_entropy_zero - cross_entropy_clean",
        _NO_LOSS,
    ),
    PooledMetric(
        "loss_recovered_mean", "higher", "Part of the loss of mean ablation that is recovered.",
        "cross_entropy_mean - cross_entropy_spliced", "cross_entropy_mean - cross_entropy_clean",
        _NO_LOSS,
    ),
    PooledMetric(
        "loss_recovered_resample", "higher",
        "Part of the loss of resample ablation that is recovered.",
        "cross_entropy_resample - cross_entropy_spliced",
        "cross_entropy_resample - cross_entropy_clean", _NO_LOSS,
    ),
    PooledMetric("kl", "lower", "KL(clean || spliced) per prediction, in nats.",
                 "kl", "predictions", _NO_PREDICTIONS),
    PooledMetric(
        "kl_recovered_zero", "higher", "Part of the KL divergence of zero ablation recovered.",
        "kl_zero - kl", "kl_zero", "zero ablation does not change the predictions",
    ),
    PooledMetric(
        "top1_agreement", "higher", "Fraction of predictions whose first token is unchanged.",
        "top1_agreement", "predictions", _NO_PREDICTIONS,
    ),
)  # fmt: skip
"""Every reported metric, in the order of tables."""


def pooled_metrics(
    totals: Mapping[str, Float[Tensor, ""]], density: Float[Tensor, " feature"]
) -> dict[str, Metric]:
    """Every metric of `METRICS`, in order, from totals over the whole evaluation set.

    `density` is the fraction of rows in which each feature is active. A value that does not
    exist is `nan` and carries the reason.

    Raises:
        InputError: a sum of `SUMS` is absent.

    >>> totals = {name: torch.tensor(0.0) for name in SUMS}
    >>> totals |= {"rows": torch.tensor(2.0), "l0": torch.tensor(5.0)}
    >>> metrics = pooled_metrics(totals, torch.tensor([1.0, 0.0]))
    >>> metrics["l0"].value, metrics["dead_fraction"].value, metrics["norm_ratio"].reason
    (2.5, 0.5, 'every target is zero')
    """
    counted = density.numel() if _evaluate("rows", totals) > 0 else 0
    dead = int((density == 0).sum())
    features = {"dead_features": torch.tensor(dead), "features": torch.tensor(counted)}
    return {metric.name: _measured(metric, {**totals, **features}) for metric in METRICS}


def _measured(metric: PooledMetric, totals: Mapping[str, Tensor]) -> Metric:
    value = metric(totals).item()
    if math.isfinite(value):
        return Metric(value)
    vanishes = _evaluate(metric.denominator, totals) == 0
    return Metric(
        math.nan,
        metric.undefined if vanishes else "one of its sums was not measured, or is not finite",
    )
