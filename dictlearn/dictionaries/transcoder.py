"""ReLU transcoder with an L1 penalty: reads what the MLP reads, writes what it writes.

Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", section 3.
"""

from dataclasses import dataclass

from dictlearn.core.config import GradientConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.objectives import SparsityL1
from dictlearn.dictionaries.sae import ReLU


class Transcoder(ReLU):
    """`acts = relu(z @ W_enc + b_enc)`, estimate of the target `acts @ W_dec + b_dec`."""


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(GradientConfig[Transcoder]):
    """A ReLU map from source to target with an L1 penalty."""

    kind = "transcoder"
    n_features: int
    """Number of features."""
    l1_coefficient: float = 5e-3
    """Price of one unit of coefficient, in standardized units; larger is sparser."""

    def __post_init__(self) -> None:
        self._require_count("n_features")
        self._require_not_negative("l1_coefficient")

    def sites(self, offered: Sites) -> Sites:
        """The sites as offered: source and target may differ."""
        return offered

    def _build(self, sites: Sites, seed: int) -> Transcoder:
        """A fresh transcoder at `sites`."""
        return Transcoder(sites, self.n_features, seed=seed)

    def objective(self) -> SparsityL1:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "TranscoderConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3)
