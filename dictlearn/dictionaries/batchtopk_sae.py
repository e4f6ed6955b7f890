"""Batch top-k sparse autoencoder: rows share a budget of active features.

Bussmann et al. 2024, "BatchTopK Sparse Autoencoders".
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.learning import Encoding, FitPass
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LinearDictionary, Rule
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.kernels.search import batch_top_k


@dataclass(frozen=True)
class BatchTopK(Rule):
    """The `n * k` largest scores of a batch in training; a fixed threshold in evaluation.

    The `threshold` is a running mean of the smallest score selected in training, so that a row is
    encoded independently of others.
    """

    k: int

    def tensors(self, n_features: int) -> dict[str, Tensor]:
        """The threshold, and the number of batches that it averages."""
        return {"threshold": torch.zeros(()), "_n_observed": torch.zeros(())}

    def coefficients(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "n feature"]
    ) -> Float[Tensor, "n feature"]:
        """The positive scores above the threshold."""
        return torch.where(scores > dictionary.get_buffer("threshold"), scores, 0.0).relu()

    def train_encode(self, dictionary: LinearDictionary, z: Float[Tensor, "n d_in"]) -> Encoding:
        """The largest scores of the batch, over all processes that share batch or features."""
        batch, features = dictionary.batch_group, dictionary.feature_group
        budget = self.k * len(z) * batch.world_size
        found = batch_top_k(z, dictionary.W_enc, dictionary.offset(), self.k * batch.world_size)
        kept = features.global_top_k(batch.global_top_k(found.values, budget), budget)
        if kept is not found.values:  # other processes have larger ones
            found = found.with_values(kept).where(kept > 0)
        return Encoding(dictionary.differentiable(z, found))

    @torch.no_grad()
    def observe_(self, dictionary: LinearDictionary, fit_pass: FitPass) -> None:
        """Move the threshold towards the smallest score selected in this batch.

        The mean is over all batches at first, and later over about the last fifty, since early
        batches were encoded with very different weights.
        """
        assert isinstance(fit_pass.acts, SparseActs)
        kept = fit_pass.acts.values
        none_kept = kept.new_full((1,), torch.inf)
        smallest = torch.cat([kept, none_kept]).min()
        smallest = dictionary.feature_group.all_reduce_min(
            dictionary.batch_group.all_reduce_min(smallest)
        )
        if smallest == torch.inf:
            return
        threshold, n_observed = map(dictionary.get_buffer, ("threshold", "_n_observed"))
        n_observed += 1
        rate = torch.clamp(1 / n_observed, min=2e-2)
        threshold += rate * (smallest - threshold)


@dataclass(frozen=True, kw_only=True)
class BatchTopKSAEConfig(TopKSAEConfig):
    """An autoencoder that keeps k features per row on average over a batch."""

    kind = "batchtopk_sae"
    shards_features = True

    def rule(self) -> Rule:
        """The k largest scores per row of a batch."""
        return BatchTopK(self.k)
