"""ReLU transcoder with an L1 penalty: from the input of an MLP to its output.

Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", section 3; the
optional skip is that of Paulo, Shabalin and Belrose 2025, "Transcoders Beat Sparse Autoencoders
for Interpretability", section 3.
"""

from dataclasses import dataclass

from dictlearn.dictionaries.linear import TranscoderFields
from dictlearn.dictionaries.sae import L1Config


@dataclass(frozen=True, kw_only=True)
class TranscoderConfig(TranscoderFields, L1Config):
    """A ReLU map from source to target with an L1 penalty."""

    kind = "transcoder"
    shards_features = True
