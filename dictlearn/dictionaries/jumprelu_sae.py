"""JumpReLU sparse autoencoder: a learned threshold per feature and an L0 penalty.

Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
Sparse Autoencoders", sections 3 and 4; equations 10 and 11 give the thresholds' gradients.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dictlearn.core.config import GradientConfig
from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding, FitPass
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.linear import LINEAR_AXES, LinearAutoencoder
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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        kernel = _kernel(pre, threshold, ctx.bandwidth)
        return None, -(kernel * gradients[0]).sum(dim=0), None


class _JumpReLU(torch.autograd.Function):
    """`pre` where it passes the threshold, else 0.

    The pseudo-derivative in the threshold is `-threshold * kernel` (equation 10).
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        kernel = _kernel(pre, threshold, ctx.bandwidth)
        grad_threshold = -threshold * (kernel * gradients[0]).sum(dim=0)
        return gradients[0] * (pre > threshold), grad_threshold, None


class JumpReLUSAE(LinearAutoencoder):
    """`acts = pre * (pre > threshold)` with `pre = (z - b_dec) @ W_enc + b_enc`, threshold > 0."""

    traits = Traits(nonnegative=True)
    feature_axes = LINEAR_AXES | {"log_threshold": 0}

    def __init__(
        self, sites: Sites, n_features: int, *, threshold: float, bandwidth: float, seed: int
    ) -> None:
        super().__init__(sites, n_features, seed=seed)
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.full((n_features,), threshold).log())

    def scale_encoder_(self, factor: Float[Tensor, ""]) -> None:
        """Leave scores at the size for which thresholds and their kernel are given.

        Scaled down, many features would start below their threshold for good.
        """

    def active(self, pre: Float[Tensor, "n feature"]) -> Float[Tensor, "n feature"]:
        """1.0 where a score passes its feature's threshold, differentiable in the threshold."""
        return _Step.apply(pre, self.log_threshold.exp(), self.bandwidth)

    def _passed(self, pre: Float[Tensor, "n feature"]) -> Float[Tensor, "n feature"]:
        return _JumpReLU.apply(pre, self.log_threshold.exp(), self.bandwidth)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._passed(self._pre(z))

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        pre = self._pre(z)
        return Encoding(self._passed(pre), pre)


@dataclass(frozen=True)
class SparsityL0:
    """Squared error + coefficient * number of active features, averaged over rows."""

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        assert isinstance(fit_pass.dictionary, JumpReLUSAE)
        assert fit_pass.pre is not None
        l0 = fit_pass.dictionary.active(fit_pass.pre).sum(dim=1).mean()
        l0 = fit_pass.dictionary.shards.total(l0)
        scale = self.coefficient * fit_pass.sparsity_scale
        return {"squared_error": squared_error(fit_pass), "sparsity": scale * l0}


@dataclass(frozen=True, kw_only=True)
class JumpReLUSAEConfig(GradientConfig[JumpReLUSAE]):
    """An autoencoder with a learned threshold per feature and a price per active feature."""

    kind = "jumprelu_sae"
    n_features: int
    """Number of features."""
    l0_coefficient: float = 2e-3
    """Price of one active feature, in units of variance explained per dimension."""
    initial_threshold: float = 0.5
    """Threshold at the start, in standardized units."""
    bandwidth: float = 0.5
    """Width of the kernel that estimates the threshold's gradient, in standardized units."""

    def __post_init__(self) -> None:
        self._require_count("n_features")
        self._require_not_negative("l0_coefficient")
        self._require_positive("initial_threshold", "bandwidth")

    def _build(self, sites: Sites, seed: int) -> JumpReLUSAE:
        """A fresh autoencoder at `sites`."""
        return JumpReLUSAE(
            sites,
            self.n_features,
            threshold=self.initial_threshold,
            bandwidth=self.bandwidth,
            seed=seed,
        )

    def objective(self) -> SparsityL0:
        """Squared error and L0."""
        return SparsityL0(self.l0_coefficient)

    @classmethod
    def tiny(cls) -> "JumpReLUSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l0_coefficient=1e-3)
