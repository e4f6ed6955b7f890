"""JumpReLU transcoder, with a linear skip on request.

The map of Dunefsky et al. 2024 with the thresholds of Rajamanoharan et al. 2024, "Jumping Ahead",
as Gemma Scope's transcoders have them; the skip is that of Paulo, Shabalin and Belrose 2025.
"""

from dataclasses import dataclass

from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.linear import TranscoderFields


@dataclass(frozen=True, kw_only=True)
class JumpReLUTranscoderConfig(TranscoderFields, JumpReLUSAEConfig):
    """A map from source to target with a learned threshold per feature."""

    kind = "jumprelu_transcoder"
    shards_features = True
