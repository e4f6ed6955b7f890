"""Top-k sparse autoencoder with the AuxK loss.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding, Objective
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LinearConfig, LinearDictionary, Rule
from dictlearn.dictionaries.objectives import AuxK
from dictlearn.dictionaries.selection import top_k


@dataclass(frozen=True)
class TopK(Rule):
    """`acts` = the `k` largest positive scores of each row."""

    k: int

    @property
    def traits(self) -> Traits:
        """At most k features are active."""
        return Traits(nonnegative=True, max_active=self.k)

    def coefficients(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """The `k` largest scores where they are positive, zero elsewhere."""
        return top_k(scores, self.k)

    def encode_sparse(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> SparseActs:
        """The largest scores, found without a dense matrix."""
        found = dictionary.top_scores(z, dictionary.W_enc, dictionary.offset(), self.k)
        return dictionary.differentiable(z, found)

    def train_encode(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The largest scores over all processes that share the features."""
        W, b = dictionary.W_enc, dictionary.offset()
        found = dictionary.top_scores(z, W, b, self.k, dictionary.feature_group)
        return Encoding(dictionary.differentiable(z, found))


@dataclass(frozen=True, kw_only=True)
class TopKSAEConfig(LinearConfig):
    """An autoencoder that keeps the k largest features of each row."""

    kind = "topk_sae"
    shards_features = True
    k: int
    """Active features per row (on average over a batch, for batch top-k)."""
    auxk_coefficient: float = 1 / 32
    """Weight of the loss that revives dead features; 0 turns it off."""
    k_aux: int | None = None
    """Dead features that AuxK uses per row; by default half the target's width, as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_count("k", "k_aux")
        self._require(self.k <= self.n_features, "k", f"at most n_features ({self.n_features})")
        self._require_not_negative("auxk_coefficient")

    def rule(self) -> Rule:
        """The k largest scores of each row."""
        return TopK(self.k)

    def objective(self) -> Objective:
        """Squared error and the AuxK loss."""
        return AuxK(self.auxk_coefficient, self.k_aux)

    @classmethod
    def tiny(cls) -> "TopKSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, k=4)
