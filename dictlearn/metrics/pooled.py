"""Declarations of the metrics that are ratios of sums over the whole evaluation set.

An evaluation computes the sums in `SUMS` for every sequence. Added up they are totals, and every
metric is a ratio of two totals (or of differences of totals). Hence each token has equal weight,
nothing is clipped, and intervals follow from the sums of sequences.
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
    "rows": "number of non-special tokens",
    "l0": "active features",
    "l1": "absolute coefficients",
    "squared_error": "||y - y_hat||^2",
    "variance": "||y - mean||^2, with the mean over the whole evaluation set",
    "typical_rows": "tokens whose norm is at most 10 times the median of their sequence",
    "typical_variance": "||y - mean||^2 over these, with their own mean",
    "typical_squared_error": "||y - y_hat||^2 over these",
    "cosine": "cosine similarity of y_hat to y",
    "norm": "||y||",
    "norm_hat": "||y_hat||",
    "predictions": "predictions of evaluated tokens",
    "cross_entropy_clean": "cross-entropy of the clean model",
    "cross_entropy_spliced": "cross-entropy with the estimate spliced in",
    "cross_entropy_zero": "cross-entropy with zeros spliced in",
    "cross_entropy_mean": "cross-entropy with the mean activation spliced in",
    "cross_entropy_resample": "cross-entropy with the activations of other tokens spliced in",
    "kl": "KL(clean || spliced)",
    "kl_zero": "KL(clean || zeros spliced in)",
    "top1_agreement": "predictions in which the clean and the spliced model agree",
}
"""The sums over the non-special tokens or the predictions of each sequence; losses are in nats."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """The declaration of a reported metric, the only one: tables and figures read it."""

    name: str
    """The key of the metric in records."""
    label: str
    """The heading of its column, and the title of its axis."""
    unit: str
    """"none" for a number without one."""
    better: Literal["lower", "higher", "neither"]
    """The direction that is better."""
    description: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class PooledMetric(MetricSpec):
    """A metric that is a ratio of sums: `numerator / denominator`, each `a` or `a - b`."""

    numerator: str
    denominator: str
    undefined: str
    """The reason why there is no value where the denominator is zero."""
    resampled: bool = True
    """Whether sums over sequences give intervals."""

    @property
    def sums(self) -> frozenset[str]:
        """The names of the sums that the metric needs."""
        return frozenset(f"{self.numerator} - {self.denominator}".split(" - "))

    def __call__(self, totals: Mapping[str, Tensor]) -> Tensor:
        """The metric, elementwise over leading axes; `nan` where the denominator vanishes."""
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


NO_ROWS = "no rows were counted"
_NO_PREDICTIONS = "no next-token predictions were counted"
_NO_VARIANCE = "the target is constant, so there is no variance to explain"

METRICS: tuple[PooledMetric, ...] = (
    PooledMetric(
        name="l0", label="L0", unit="features per token", better="lower",
        description="Active features per token.",
        numerator="l0", denominator="rows",
        undefined=NO_ROWS,
    ),
    PooledMetric(
        name="l1", label="L1", unit="units of the coefficients", better="lower",
        description="Absolute coefficients per token.",
        numerator="l1", denominator="rows",
        undefined=NO_ROWS,
    ),
    PooledMetric(
        name="dead_fraction", label="dead", unit="fraction", better="lower",
        description="Fraction of features active on no token of the evaluation.",
        numerator="dead_features", denominator="features",
        undefined="no rows or no features were counted", resampled=False,
    ),
    PooledMetric(
        name="fraction_variance_unexplained", label="FVU", unit="fraction", better="lower",
        description="Squared error over variance: the mean gets 1.",
        numerator="squared_error", denominator="variance",
        undefined=_NO_VARIANCE,
    ),
    PooledMetric(
        name="massive_fraction", label="massive rows", unit="fraction", better="neither",
        description="Fraction of rows whose norm is over 10 times the median of their sequence.",
        numerator="rows - typical_rows", denominator="rows",
        undefined=NO_ROWS, resampled=False,  # too rare for sequences to tell how rare
    ),
    PooledMetric(
        name="fraction_variance_unexplained_typical", label="FVU without massive rows",
        unit="fraction", better="lower",
        description="Fraction of variance unexplained over all rows but the massive ones.",
        numerator="typical_squared_error", denominator="typical_variance",
        undefined=_NO_VARIANCE,
    ),
    PooledMetric(
        name="explained_variance", label="explained variance", unit="fraction", better="higher",
        description="One minus the fraction of variance unexplained.",
        numerator="variance - squared_error", denominator="variance",
        undefined=_NO_VARIANCE,
    ),
    PooledMetric(
        name="cosine", label="cosine", unit="none", better="higher",
        description="Mean cosine of estimate and target.",
        numerator="cosine", denominator="rows",
        undefined=NO_ROWS,
    ),
    PooledMetric(
        name="norm_ratio", label="norm ratio", unit="none", better="neither",
        description="Summed norms of the estimates over those of the targets.",
        numerator="norm_hat", denominator="norm",
        undefined="every target is zero",
    ),
    PooledMetric(
        name="cross_entropy_clean", label="CE clean", unit="nats per prediction", better="lower",
        description="Next-token loss of the clean model, in nats.",
        numerator="cross_entropy_clean", denominator="predictions",
        undefined=_NO_PREDICTIONS,
    ),
    PooledMetric(
        name="cross_entropy_spliced", label="CE spliced",
        unit="nats per prediction", better="lower",
        description="Next-token loss with the estimate spliced in, in nats.",
        numerator="cross_entropy_spliced", denominator="predictions",
        undefined=_NO_PREDICTIONS,
    ),
    *(
        PooledMetric(
            name=f"loss_recovered_{ablation}", label=f"loss recovered vs {ablation}",
            unit="fraction", better="higher",
            description=f"Part of the loss of {ablation} ablation that is recovered.",
            numerator=f"cross_entropy_{ablation} - cross_entropy_spliced",
            denominator=f"cross_entropy_{ablation} - cross_entropy_clean",
            undefined="the ablation does not change the cross-entropy, so there is nothing to "
            "recover",
        )
        for ablation in ("zero", "mean", "resample")
    ),
    PooledMetric(
        name="kl", label="KL", unit="nats per prediction", better="lower",
        description="KL(clean || spliced) per prediction, in nats.",
        numerator="kl", denominator="predictions",
        undefined=_NO_PREDICTIONS,
    ),
    PooledMetric(
        name="kl_recovered_zero", label="KL recovered vs zero", unit="fraction", better="higher",
        description="Part of the KL divergence of zero ablation recovered.",
        numerator="kl_zero - kl", denominator="kl_zero",
        undefined="zero ablation does not change the predictions",
    ),
    PooledMetric(
        name="top1_agreement", label="top-1 agreement", unit="fraction", better="higher",
        description="Fraction of predictions whose first token is unchanged.",
        numerator="top1_agreement", denominator="predictions",
        undefined=_NO_PREDICTIONS,
    ),
)  # fmt: skip
"""The metrics that are ratios of sums, in the order of tables."""


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
