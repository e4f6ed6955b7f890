"""Principal components: the best linear code for a given number of dimensions."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.closed_form import MomentsDictionary, MomentsLearner
from dictlearn.dictionaries.selection import largest_k


class PCA(MomentsDictionary):
    """Coefficients on orthonormal directions of greatest variance; the k largest are kept.

    On orthonormal atoms the k coefficients of largest magnitude are the best k-sparse code.
    """

    _bias: Tensor

    def __init__(self, sites: Sites, n_features: int, *, k: int) -> None:
        super().__init__(sites, n_features)
        self.k = k
        self.traits = Traits(max_active=k)
        self.register_buffer("_atoms", torch.eye(n_features, sites.target.d))
        self.register_buffer("_bias", torch.zeros(sites.target.d))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        coefficients = self._all_scores(z)
        return coefficients if self.k == self.n_features else largest_k(coefficients, self.k)

    def _all_scores(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return (z - self._bias) @ self._atoms.T

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return self._all_scores(z)[:, features]

    def solve_(self, mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> None:
        """Take the leading eigenvectors of the covariance."""
        directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).T
        self._atoms.copy_(directions[: self.n_features])
        self._bias.copy_(mean)


@dataclass(frozen=True, kw_only=True)
class PCAConfig(ClosedFormConfig[PCA]):
    """Principal components; with `k`, only the k largest coefficients of each row."""

    kind = "pca"
    baseline = True
    n_features: int | None = None
    """Number of components; by default the width."""
    k: int | None = None
    """Coefficients kept per row; all by default."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "k")
        if self.n_features is not None and self.k is not None:
            self._require(self.k <= self.n_features, "k", f"at most {self.n_features}")

    def _build(self, sites: Sites, seed: int) -> PCA:
        """Untrained components at `sites`, no more than there are dimensions."""
        d = sites.target.d
        n_features = self.n_features or d
        k = self.k or n_features
        if max(n_features, k) > d:
            raise ConfigError(
                f"PCA at {str(sites.target)!r} has at most {d} components, got n_features = "
                f"{n_features}, k = {k}"
            )
        return PCA(sites, n_features, k=k)

    def learner(self, sites: Sites, *, seed: int) -> MomentsLearner:
        """A learner that accumulates moments."""
        return MomentsLearner(self.build(sites))

    @classmethod
    def tiny(cls) -> "PCAConfig":
        """The smallest useful instance."""
        return cls(n_features=8, k=4)
