"""Top-k transcoder, with a linear skip on request.

Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders for Interpretability",
section 3 (skip transcoders); the selection is that of Gao et al. 2024.
"""

from dataclasses import dataclass

from dictlearn.dictionaries.linear import TranscoderFields
from dictlearn.dictionaries.topk_sae import TopKSAEConfig


@dataclass(frozen=True, kw_only=True)
class TopKTranscoderConfig(TranscoderFields, TopKSAEConfig):
    """A map from source to target through the k largest features of each row."""

    kind = "topk_transcoder"
    shards_features = True
