"""Batch top-k sparse autoencoder: rows share a budget of active features.

Bussmann et al. 2024, "BatchTopK Sparse Autoencoders".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding, FitPass
from dictlearn.core.sites import Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LINEAR_AXES, LinearAutoencoder
from dictlearn.dictionaries.topk_sae import TopKFields
from dictlearn.kernels.search import batch_top_k


class BatchTopKSAE(LinearAutoencoder):
    """Learns with the `n * k` largest scores of a batch; encodes with the threshold they imply.

    `threshold` is a running mean of the smallest score kept, so that encoding a row needs no
    other row.
    """

    traits = Traits(nonnegative=True)
    feature_axes = LINEAR_AXES
    threshold: Tensor
    _n_observed: Tensor

    def __init__(self, sites: Sites, n_features: int, *, k: int, seed: int) -> None:
        super().__init__(sites, n_features, seed=seed)
        self.k = k
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("_n_observed", torch.zeros(()))

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        pre = self._pre(z)
        return torch.where(pre > self.threshold, pre, 0.0).relu()

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        budget = self.k * len(z) * self.ranks.size
        found = batch_top_k(z, self.W_enc, self._offset(), self.k * self.ranks.size)
        kept = self.shards.only_largest(self.ranks.only_largest(found.values, budget), budget)
        if kept is not found.values:  # other processes have larger ones
            found = found.with_values(kept).where(kept > 0)
        return Encoding(self._differentiable(z, found))

    @torch.no_grad()
    def observe_(self, fit_pass: FitPass) -> None:
        """Move the threshold towards the smallest score kept in this batch.

        A mean of all batches at first, of about the last thousand in the end: the early ones
        come from a dictionary that no longer exists.
        """
        assert isinstance(fit_pass.acts, SparseActs)
        kept = fit_pass.acts.values
        none_kept = kept.new_full((1,), torch.inf)
        smallest = torch.cat([kept, none_kept]).min()
        smallest = self.shards.smallest(self.ranks.smallest(smallest))
        if smallest == torch.inf:
            return
        self._n_observed += 1
        rate = torch.clamp(1 / self._n_observed, min=1e-3)
        self.threshold += rate * (smallest - self.threshold)


@dataclass(frozen=True, kw_only=True)
class BatchTopKSAEConfig(TopKFields[BatchTopKSAE]):
    """An autoencoder that keeps k features per row on average over a batch."""

    kind = "batchtopk_sae"

    def _build(self, sites: Sites, seed: int) -> BatchTopKSAE:
        """A fresh autoencoder at `sites`."""
        return BatchTopKSAE(sites, self.n_features, k=self.k, seed=seed)

    @classmethod
    def tiny(cls) -> "BatchTopKSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, k=4)
