"""k-means: the nearest centre of each activation. A codebook with k = 1, fitted directly."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.closed_form import RowsDictionary, RowsLearner
from dictlearn.dictionaries.selection import Choosing


class KMeans(Choosing, RowsDictionary):
    """`acts` is 1 at the nearest centre (Lloyd's algorithm, as implemented by scikit-learn)."""

    traits = Traits(nonnegative=True, binary=True, max_active=1)

    def __init__(self, sites: Sites, n_features: int, *, seed: int) -> None:
        super().__init__(sites, n_features)
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(n_features, sites.target.d, generator=generator)
        self.register_buffer("_atoms", centres)

    def _scores(
        self, z: Float[Tensor, "n d_in"], features: Int[Tensor, " m"]
    ) -> Float[Tensor, "n m"]:
        """`z . c - |c|^2 / 2`, which ranks centres as `-|z - c|` does."""
        centres = self._atoms[features]
        return z @ centres.T - centres.pow(2).sum(dim=1) / 2

    def _chosen(self, z: Float[Tensor, "n d_in"]) -> Int[Tensor, "n 1"]:
        every = torch.arange(self.n_features, device=z.device)
        return self._scores(z, every).argmax(dim=1, keepdim=True)

    def solve_(self, z: Float[Tensor, "n d"]) -> None:
        """Run Lloyd's algorithm; with fewer distinct rows than centres, they are the centres.

        In float64, since sums depend on the number of threads: rounding in float32 moves rows
        between centres, and the centres with them.
        """
        from sklearn.cluster import KMeans as SklearnKMeans

        n = min(self.n_features, len(z.unique(dim=0)))
        solver = SklearnKMeans(n_clusters=n, n_init=1, max_iter=50, random_state=self._seed)
        solver.fit(z.double().numpy())
        self._atoms[:n] = torch.from_numpy(solver.cluster_centers_)


@dataclass(frozen=True, kw_only=True)
class KMeansConfig(ClosedFormConfig[KMeans]):
    """k-means centres as codes."""

    kind = "kmeans"
    baseline = True
    n_features: int
    """Number of centres."""
    max_rows: int = 32_768
    """Rows that are clustered."""

    def __post_init__(self) -> None:
        self._require_count("n_features", "max_rows")

    def _build(self, sites: Sites, seed: int) -> KMeans:
        """Untrained centres at `sites`."""
        return KMeans(sites, self.n_features, seed=seed)

    def learner(self, sites: Sites, *, seed: int) -> RowsLearner:
        """A learner that keeps rows to cluster."""
        return RowsLearner(self.build(sites, seed=seed), self.max_rows)

    @classmethod
    def tiny(cls) -> "KMeansConfig":
        """The smallest useful instance."""
        return cls(n_features=16, max_rows=1024)
