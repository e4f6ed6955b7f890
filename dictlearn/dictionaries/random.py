"""Random directions, not learned: a lower bound for trained kinds."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.closed_form import RowsDictionary, RowsLearner
from dictlearn.dictionaries.directions import random_directions
from dictlearn.dictionaries.selection import Searching, top_k
from dictlearn.kernels.scores import differentiable_scores


class Random(Searching, RowsDictionary):
    """The k largest projections on random directions, all times one fitted gain.

    The gain minimizes the squared error over training rows. It corrects for the overlap of
    directions on average, which is the strongest form of the baseline without learned
    directions.
    """

    gain: Tensor

    def __init__(self, sites: Sites, n_features: int, *, k: int, seed: int) -> None:
        super().__init__(sites, n_features)
        self.k = k
        self.traits = Traits(nonnegative=True, max_active=k)
        generator = torch.Generator().manual_seed(seed)
        directions = random_directions(n_features, sites.target.d, generator)
        self.register_buffer("_atoms", directions)
        self.register_buffer("gain", torch.ones(()))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return top_k(z @ (self.gain * self._atoms.T), self.k)

    def _encode_sparse(self, z: Float[Tensor, "n d_in"]) -> SparseActs:
        W, b = self.gain * self._atoms.T, z.new_zeros(self.n_features)
        return differentiable_scores(z, W, b, self.top_scores(z, W, b, self.k))

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        return z @ (self.gain * self._atoms[features].T)

    def solve_(self, z: Float[Tensor, "n d"]) -> None:
        """Fit the gain by least squares."""
        estimate = self._encode_sparse(z).matmul(self._atoms)
        if (power := estimate.pow(2).sum()) > 0:  # else any gain is as good
            self.gain.copy_((z * estimate).sum() / power)


@dataclass(frozen=True, kw_only=True)
class RandomConfig(ClosedFormConfig[Random]):
    """Random directions; the k with the largest projections are active."""

    kind = "random"
    baseline = True
    n_features: int
    """Number of directions."""
    k: int
    """Active directions per row; choose the L0 of the kind to compare with."""
    max_rows: int = 8192
    """Rows on which mean, scale and gain are fitted."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "k", "max_rows")
        self._require(self.k <= self.n_features, "k", f"at most n_features ({self.n_features})")

    def _build(self, sites: Sites, seed: int) -> Random:
        """Random directions at `sites`."""
        return Random(sites, self.n_features, k=self.k, seed=seed)

    def learner(self, sites: Sites, *, seed: int) -> RowsLearner:
        """A learner that fits mean, scale and gain."""
        return RowsLearner(self.build(sites, seed=seed), self.max_rows)

    @classmethod
    def tiny(cls) -> "RandomConfig":
        """The smallest useful instance."""
        return cls(n_features=32, k=4)
