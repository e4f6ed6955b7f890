"""ReLU transcoder with an L1 penalty: reads what the MLP reads, writes what it writes.

Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", section 3.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.config import GradientConfig
from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.objectives import SparsityL1


class Transcoder(LinearDictionary):
    """`acts = relu(z @ W_enc + b_enc)`, estimate of the target `acts @ W_dec + b_dec`."""

    traits = Traits(nonnegative=True)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._pre(z).relu()

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        pre = self._pre(z)
        return Encoding(pre.relu(), pre)


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
