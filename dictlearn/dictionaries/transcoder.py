"""ReLU transcoder with an L1 penalty: from the input of an MLP to its output.

Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", section 3; the
optional skip is that of Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders
for Interpretability", section 3.
"""

from dataclasses import dataclass

from dictlearn.dictionaries.linear import TranscoderFields
from dictlearn.dictionaries.objectives import SparsityL1
from dictlearn.dictionaries.sae import ReLU


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(TranscoderFields):
    """A ReLU map from source to target with an L1 penalty."""

    kind = "transcoder"
    shards_features = True
    l1_coefficient: float = 5e-3
    """Cost of one unit of coefficient, in standardized units; larger is sparser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_not_negative("l1_coefficient")

    def rule(self) -> ReLU:
        """Positive scores."""
        return ReLU()

    def objective(self) -> SparsityL1:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "TranscoderConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3, linear_skip=True)
