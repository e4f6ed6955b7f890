"""Batch top-k transcoder, with a linear skip on request.

The map of Dunefsky et al. 2024 with the selection of Bussmann et al. 2024, "BatchTopK Sparse
Autoencoders"; the skip is that of Paulo, Shabalin and Belrose 2025.
"""

from dataclasses import dataclass

from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.linear import TranscoderFields


@dataclass(frozen=True, kw_only=True)
class BatchTopKTranscoderConfig(TranscoderFields, BatchTopKSAEConfig):
    """A map from source to target through k features per row on average over a batch."""

    kind = "batchtopk_transcoder"
    shards_features = True
