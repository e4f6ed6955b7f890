"""ReLU sparse autoencoder with an L1 penalty.

Bricken et al. 2023, "Towards Monosemanticity", sections "Sparse Autoencoder Setup" and
"Neuron Resampling".
"""

from abc import ABC
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.kinds import Resampling
from dictlearn.core.learning import Encoding, Objective
from dictlearn.dictionaries.elementwise import ElementwiseRule, Features
from dictlearn.dictionaries.linear import LinearConfig, LinearDictionary, Rule
from dictlearn.dictionaries.objectives import SparsityL1


@dataclass(frozen=True)
class ReLU(ElementwiseRule):
    """`acts` = the positive scores."""

    is_homogeneous = True

    def entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """`relu(scores)`."""
        return scores.relu()

    def train_densely(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The same in little memory: no objective needs the scores."""
        acts, written = dictionary.relu_estimate(z)
        return Encoding(acts, written=written)


@dataclass(frozen=True, kw_only=True)
class L1Config(LinearConfig, ABC):
    """A linear dictionary with ReLU and an L1 penalty."""

    l1_coefficient: float = 5e-3
    """Cost of one unit of coefficient, in standardized units; larger is sparser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_not_negative("l1_coefficient")

    def rule(self) -> Rule:
        """Positive scores."""
        return ReLU()

    def objective(self) -> Objective:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "L1Config":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3)


@dataclass(frozen=True, kw_only=True)
class SAEConfig(L1Config):
    """A ReLU autoencoder with an L1 penalty, and optional resampling of dead features."""

    kind = "sae"
    shards_features = True
    resample_steps: tuple[int, ...] = ()
    """Steps after which dead features are resampled (published: four times in the first tenth)."""
    resample_window: int = 1000
    """Steps without activation after which a feature is dead."""
    resample_rows: int = 819_200
    """Rows from which resampled features are drawn by their loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_count("resample_window", "resample_rows")
        self._require(all(s >= 1 for s in self.resample_steps), "resample_steps", "at least 1 each")

    def resampling(self) -> Resampling | None:
        """Resampling as published: rows drawn with probability proportional to squared loss."""
        if not self.resample_steps:
            return None
        return Resampling(
            window=self.resample_window,
            n_rows=self.resample_rows,
            loss_power=2.0,
            steps=self.resample_steps,
        )
