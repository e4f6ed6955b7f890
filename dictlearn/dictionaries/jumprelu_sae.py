"""JumpReLU sparse autoencoder: a learned threshold per feature and an L0 penalty.

Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
Sparse Autoencoders", sections 3 and 4; equations 10 and 11 give the thresholds' gradients.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dictlearn.core.learning import FitPass
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.elementwise import EVERY, ElementwiseRule, Features
from dictlearn.dictionaries.linear import LinearConfig, LinearDictionary
from dictlearn.dictionaries.objectives import entries, squared_error


def _kernel_sums(pre: Tensor, threshold: Tensor, bandwidth: float, gradient: Tensor) -> Tensor:
    """For each threshold the sum of `gradient` times the rectangle kernel around the threshold."""
    inside = (pre - threshold).abs_() < bandwidth / 2
    return torch.where(inside, gradient, 0.0).sum_to_size(threshold.shape) / bandwidth


class _Step(torch.autograd.Function):
    """1 where `pre > threshold`; pseudo-derivative `-kernel` in the threshold (equation 11)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, -_kernel_sums(pre, threshold, ctx.bandwidth, gradients[0]), None


class _JumpReLU(torch.autograd.Function):
    """`pre` above the threshold, else 0.

    The pseudo-derivative in the threshold is `-threshold * kernel` (equation 10).
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre.masked_fill(pre <= threshold, 0.0)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        (gradient,) = gradients
        sums = _kernel_sums(pre, threshold, ctx.bandwidth, gradient)
        return gradient.masked_fill(pre <= threshold, 0.0), -threshold * sums, None


@dataclass(frozen=True)
class JumpReLU(ElementwiseRule):
    """`acts = scores * (scores > threshold)`, with a learned threshold above 0 per feature."""

    threshold: float = 0.5
    """The threshold of every feature at the start."""
    bandwidth: float = 0.5
    """Width of the kernel that estimates the threshold's gradient."""
    feature_axes: ClassVar = {"log_threshold": 0}
    # If scaled down, many features would start below their threshold and stay inactive.
    keeps_scale: ClassVar = True

    def tensors(self, n_features: int) -> dict[str, Tensor]:
        """The logarithm of each feature's threshold."""
        return {"log_threshold": nn.Parameter(torch.full((n_features,), self.threshold).log())}

    def entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """Scores above their threshold, zero elsewhere."""
        return scores.masked_fill(scores <= self.bounds(dictionary)[features], 0.0)

    def train_entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """The same coefficients, with the published gradient estimate for thresholds."""
        return _JumpReLU.apply(scores, self.bounds(dictionary)[features], self.bandwidth)

    def bounds(self, dictionary: LinearDictionary) -> Float[Tensor, " feature"]:
        """The thresholds."""
        return dictionary.get_parameter("log_threshold").exp()

    def train_bounds(self, dictionary: LinearDictionary) -> Float[Tensor, " feature"]:
        """The lower ends of the kernels: up to there, no threshold has a gradient."""
        return self.bounds(dictionary) - self.bandwidth / 2

    def active(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"] | SparseActs
    ) -> Float[Tensor, "..."]:
        """1.0 for each score above its threshold, differentiable in the threshold; else 0.0."""
        features = scores.indices if isinstance(scores, SparseActs) else EVERY
        return _Step.apply(entries(scores), self.bounds(dictionary)[features], self.bandwidth)


@dataclass(frozen=True)
class SparsityL0:
    """Squared error + coefficient * number of active features, averaged over rows."""

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        dictionary = fit_pass.dictionary
        assert isinstance(dictionary, LinearDictionary)
        assert isinstance(dictionary.rule, JumpReLU)
        assert fit_pass.pre is not None
        active = dictionary.rule.active(dictionary, fit_pass.pre)
        l0 = dictionary.feature_group.all_reduce_forward(active.sum()) / len(fit_pass.t)
        scale = self.coefficient * fit_pass.sparsity_scale
        return {"squared_error": squared_error(fit_pass), "sparsity": scale * l0}


@dataclass(frozen=True, kw_only=True)
class JumpReLUSAEConfig(LinearConfig):
    """An autoencoder with a learned threshold per feature and an L0 penalty."""

    kind = "jumprelu_sae"
    shards_features = True
    l0_coefficient: float = 2e-3
    """Cost of one active feature, in units of variance explained per dimension."""
    initial_threshold: float = 0.5
    """Threshold at the start, in standardized units."""
    bandwidth: float = 0.5
    """Width of the kernel that estimates the threshold's gradient, in standardized units."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_not_negative("l0_coefficient")
        self._require_positive("initial_threshold", "bandwidth")

    def rule(self) -> JumpReLU:
        """Scores above the learned threshold of each feature."""
        return JumpReLU(self.initial_threshold, self.bandwidth)

    def objective(self) -> SparsityL0:
        """Squared error and L0."""
        return SparsityL0(self.l0_coefficient)

    @classmethod
    def tiny(cls) -> "JumpReLUSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l0_coefficient=1e-3)
