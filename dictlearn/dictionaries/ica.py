"""Independent component analysis: directions with maximally non-Gaussian coefficients."""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.kinds import ClosedFormConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.closed_form import RowsDictionary, RowsLearner
from dictlearn.dictionaries.selection import largest_k

_NO_VARIANCE = 1e-12
"""Standard deviation of a direction, relative to the largest, that is rounding in float64."""


class ICA(RowsDictionary):
    """`acts = z @ unmixing`, estimate `acts @ mixing`; the k largest coefficients are kept.

    Hyvärinen and Oja 2000, "Independent Component Analysis: Algorithms and Applications"
    (FastICA, as implemented by scikit-learn). Coefficients have unit variance.
    """

    def __init__(self, sites: Sites, n_features: int, *, k: int, seed: int) -> None:
        super().__init__(sites, n_features)
        self.k = k
        self.traits = Traits(max_active=k)
        self._seed = seed
        self.unmixing: Tensor
        self.register_buffer("unmixing", torch.eye(sites.source.d, n_features))
        self.register_buffer("_atoms", torch.eye(n_features, sites.target.d))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        coefficients = z @ self.unmixing
        return coefficients if self.k == self.n_features else largest_k(coefficients, self.k)

    def solve_(self, z: Float[Tensor, "n d"]) -> None:
        """Run FastICA on the rows.

        Raises:
            InputError: they vary in fewer directions than there are components.
        """
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        rank = int(torch.linalg.matrix_rank(z.double() - z.double().mean(dim=0), rtol=_NO_VARIANCE))
        if rank < self.n_features:
            raise InputError(
                f"ICA with n_features = {self.n_features} needs activations that vary in as many "
                f"directions, got {len(z):,} rows that vary in {rank}; give more rows, or fewer "
                "n_features"
            )
        solver = FastICA(
            n_components=self.n_features, whiten="unit-variance", random_state=self._seed
        )
        with warnings.catch_warnings():
            # Activations are close to Gaussian in many directions, which do not converge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(z.double().numpy())
        self.unmixing.copy_(torch.from_numpy(solver.components_.T))
        self._atoms.copy_(torch.from_numpy(solver.mixing_.T))


@dataclass(frozen=True, kw_only=True)
class ICAConfig(ClosedFormConfig[ICA]):
    """Independent components; with `k`, only the k largest coefficients of each row."""

    kind = "ica"
    baseline = True
    n_features: int | None = None
    """Number of components; by default the width."""
    k: int | None = None
    """Coefficients kept per row; all by default."""
    max_rows: int = 32_768
    """Rows that FastICA is fitted to."""

    def __post_init__(self) -> None:
        self._require_count("max_rows", "n_features", "k")

    def _build(self, sites: Sites, seed: int) -> ICA:
        """Untrained components at `sites`, no more than there are dimensions."""
        d = sites.target.d
        n_features = self.n_features or d
        k = self.k or n_features
        if n_features > d or k > n_features:
            raise ConfigError(
                f"ICA at {str(sites.target)!r} needs k <= n_features <= {d}, got n_features = "
                f"{n_features}, k = {k}"
            )
        return ICA(sites, n_features, k=k, seed=seed)

    def learner(self, sites: Sites, *, seed: int) -> RowsLearner:
        """A learner that keeps rows for FastICA."""
        return RowsLearner(self.build(sites, seed=seed), self.max_rows)

    @classmethod
    def tiny(cls) -> "ICAConfig":
        """The smallest useful instance."""
        return cls(n_features=8, k=4, max_rows=1024)
