"""ReLU sparse autoencoder with an L1 penalty.

Bricken et al. 2023, "Towards Monosemanticity", sections "Sparse Autoencoder Setup" and
"Neuron Resampling".
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.config import DeadFeatureRemedy, GradientConfig
from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LINEAR_AXES, LinearAutoencoder, LinearDictionary
from dictlearn.dictionaries.objectives import SparsityL1
from dictlearn.kernels.search import above, positive_if_sparse

SPARSE_BELOW = 0.15
"""Fraction of active entries below which a training step touches only those.

`benchmarks/step.py` measures where the two ways of computing the same step cost the same.
"""


class ReLU(LinearDictionary):
    """`acts` = the positive scores: the rule shared by autoencoder and transcoder."""

    traits = Traits(nonnegative=True)
    feature_axes = LINEAR_AXES

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._pre(z).relu()

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        return above(z, self.W_enc, self._offset())

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        found = positive_if_sparse(z, self.W_enc, self._offset(), SPARSE_BELOW)
        return Encoding(self._encode(z) if found is None else self._differentiable(z, found))


class SAE(ReLU, LinearAutoencoder):
    """`acts = relu((z - b_dec) @ W_enc + b_enc)`, estimate `acts @ W_dec + b_dec`."""


@dataclass(frozen=True, kw_only=True)
class SAEConfig(GradientConfig[SAE]):
    """A ReLU autoencoder with an L1 penalty, and resampling of dead features on request."""

    kind = "sae"
    n_features: int
    """Number of features."""
    l1_coefficient: float = 5e-3
    """Price of one unit of coefficient, in standardized units; larger is sparser."""
    resample_steps: tuple[int, ...] = ()
    """Steps after which dead features are resampled (published: four times in the first tenth)."""
    resample_window: int = 1000
    """A feature is dead if it has not fired in so many steps."""
    resample_rows: int = 819_200
    """Rows whose loss decides where resampled features start."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "resample_window", "resample_rows")
        self._require_not_negative("l1_coefficient")
        self._require(all(s >= 1 for s in self.resample_steps), "resample_steps", "at least 1 each")

    def _build(self, sites: Sites, seed: int) -> SAE:
        """A fresh autoencoder at `sites`."""
        return SAE(sites, self.n_features, seed=seed)

    def objective(self) -> SparsityL1:
        """Squared error and L1."""
        return SparsityL1(self.l1_coefficient)

    def remedy(self) -> DeadFeatureRemedy | None:
        """Resampling as published: rows drawn with probability proportional to squared loss."""
        if not self.resample_steps:
            return None
        return DeadFeatureRemedy(
            window=self.resample_window,
            n_rows=self.resample_rows,
            loss_power=2.0,
            steps=self.resample_steps,
        )

    @classmethod
    def tiny(cls) -> "SAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3)
