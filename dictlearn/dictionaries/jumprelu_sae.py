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

from dictlearn.core.learning import Encoding, FitPass
from dictlearn.dictionaries.linear import LinearConfig, LinearDictionary, Rule
from dictlearn.dictionaries.objectives import squared_error


def _kernel(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The rectangle kernel around the threshold, divided by its width."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype) / bandwidth


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
        kernel = _kernel(pre, threshold, ctx.bandwidth)
        return None, -(kernel * gradients[0]).sum(dim=0), None


class _JumpReLU(torch.autograd.Function):
    """`pre` above the threshold, else 0.

    The pseudo-derivative in the threshold is `-threshold * kernel` (equation 10).
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        kernel = _kernel(pre, threshold, ctx.bandwidth)
        grad_threshold = -threshold * (kernel * gradients[0]).sum(dim=0)
        return gradients[0] * (pre > threshold), grad_threshold, None


@dataclass(frozen=True)
class JumpReLU(Rule):
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

    def coefficients(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """Scores above their threshold, zero elsewhere."""
        return scores * (scores > self._thresholds(dictionary))

    def train_encode(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The same coefficients, with the published gradient estimate for thresholds."""
        scores = dictionary.all_scores(z)
        thresholds = self._thresholds(dictionary)
        return Encoding(_JumpReLU.apply(scores, thresholds, self.bandwidth), scores)

    def active(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """1.0 where a score is above its threshold, differentiable in the threshold."""
        return _Step.apply(scores, self._thresholds(dictionary), self.bandwidth)

    def _thresholds(self, dictionary: LinearDictionary) -> Float[Tensor, " feature"]:
        return dictionary.get_parameter("log_threshold").exp()


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
        l0 = dictionary.feature_group.all_reduce_forward(active.sum(dim=1).mean())
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
