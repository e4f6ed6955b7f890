"""Top-k sparse autoencoder with the AuxK loss.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.config import D, GradientConfig
from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LINEAR_AXES, LinearAutoencoder, LinearDictionary
from dictlearn.dictionaries.objectives import AuxK
from dictlearn.dictionaries.selection import Searching, top_k


class TopK(Searching, LinearDictionary):
    """`acts` = the `k` largest positive scores: the rule shared by autoencoder and transcoder."""

    feature_axes = LINEAR_AXES

    def __init__(self, sites: Sites, n_features: int, *, k: int, seed: int) -> None:
        super().__init__(sites, n_features, seed=seed)
        self.k = k
        self.traits = Traits(nonnegative=True, max_active=k)

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return top_k(self._pre(z), self.k)

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        return self._top_scores(z, self.W_enc, self._offset(), self.k)

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        W, b = self.W_enc, self._offset()
        return Encoding(self._differentiable(z, self._top_scores(z, W, b, self.k, self.shards)))


class TopKSAE(TopK, LinearAutoencoder):
    """`acts` = the `k` largest positive entries of `(z - b_dec) @ W_enc + b_enc`."""


@dataclass(frozen=True, kw_only=True)
class TopKFields(GradientConfig[D]):
    """The fields of every kind that keeps a fixed number of features."""

    n_features: int
    """Number of features."""
    k: int
    """Active features per row (on average, where a kind shares them over a batch)."""
    auxk_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features; 0 turns it off."""
    k_aux: int | None = None
    """Dead features that take part per row; half the target's width unless set, as published."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "k")
        self._require(self.k <= self.n_features, "k", f"at most n_features ({self.n_features})")
        self._require_not_negative("auxk_coefficient")
        if self.k_aux is not None:
            self._require_count("k_aux")

    def objective(self) -> AuxK:
        """Squared error and the revival of dead features."""
        return AuxK(self.auxk_coefficient, self.k_aux)


@dataclass(frozen=True, kw_only=True)
class TopKSAEConfig(TopKFields[TopKSAE]):
    """An autoencoder that keeps the k largest features of each row."""

    kind = "topk_sae"

    def _build(self, sites: Sites, seed: int) -> TopKSAE:
        """A fresh autoencoder at `sites`."""
        return TopKSAE(sites, self.n_features, k=self.k, seed=seed)

    @classmethod
    def tiny(cls) -> "TopKSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, k=4)
