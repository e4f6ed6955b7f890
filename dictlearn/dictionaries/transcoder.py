"""ReLU transcoder with an L1 penalty: reads what the MLP reads, writes what it writes.

Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", section 3; the
optional skip is that of Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders
for Interpretability", section 3.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dictlearn.core.config import GradientConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.objectives import SparsityL1
from dictlearn.dictionaries.sae import ReLU


class Transcoder(ReLU):
    """`acts = relu(z @ W_enc + b_enc)`, estimate of the target `acts @ W_dec + b_dec`."""


class LinearSkip(LinearDictionary, ABC):
    """What stands beside the features: a linear map `z @ W_skip`, which starts at zero."""

    def __init__(self, sites: Sites, n_features: int, **rule: Any) -> None:
        super().__init__(sites, n_features, **rule)
        self.W_skip = nn.Parameter(torch.zeros(sites.source.d, sites.target.d))

    def _skip(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        return z @ self.W_skip


class SkipTranscoder(LinearSkip, Transcoder):
    """A ReLU transcoder beside a linear map."""


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(GradientConfig[Transcoder]):
    """A ReLU map from source to target with an L1 penalty."""

    kind = "transcoder"
    n_features: int
    """Number of features."""
    l1_coefficient: float = 5e-3
    """Price of one unit of coefficient, in standardized units; larger is sparser."""
    linear_skip: bool = False
    """Whether a linear map from source to target stands beside the features."""

    def __post_init__(self) -> None:
        self._require_count("n_features")
        self._require_not_negative("l1_coefficient")

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered: source and target may differ."""
        return offered

    def _build(self, sites: Sites, seed: int) -> Transcoder:
        """A fresh transcoder at `sites`."""
        maker = SkipTranscoder if self.linear_skip else Transcoder
        return maker(sites, self.n_features, seed=seed)

    def objective(self) -> SparsityL1:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "TranscoderConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3, linear_skip=True)
