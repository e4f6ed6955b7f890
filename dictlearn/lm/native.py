"""Small transformers that TransformerLens implements itself, made from a config."""

from dataclasses import dataclass

import torch

from dictlearn.core.config import Config
from dictlearn.lm.hooks import LanguageModel


@dataclass(frozen=True, kw_only=True)
class NativeModelConfig(Config):
    """The shape of a GPT with learned positions and pre-layer-norms.

    For rotary embeddings, load a folder of transformers: those of native models turn adjacent pairs
    of dimensions, and small ones hardly learn with them.
    """

    n_layers: int
    d_model: int
    n_heads: int
    d_mlp: int
    n_ctx: int
    """The longest sequence, in tokens."""
    d_vocab: int
    act_fn: str = "gelu"
    """"gelu" or "relu"."""

    def __post_init__(self) -> None:
        self._require_count("n_layers", "d_model", "n_heads", "d_mlp", "n_ctx", "d_vocab")
        self._require(self.d_model % self.n_heads == 0, "n_heads", f"a divisor of {self.d_model}")
        self._require_choice("act_fn", ("gelu", "relu"))


def new_model(
    config: NativeModelConfig,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """A model with random weights, which `seed` determines; it has no tokenizer."""
    from transformer_lens.model_bridge import TransformerBridge

    described = config.to_dict() | {
        "d_head": config.d_model // config.n_heads,
        "normalization_type": "LN",
        "eps": 1e-5,
        "positional_embedding_type": "standard",
        "seed": seed,
    }
    model = TransformerBridge.boot_native(described, device=device, dtype=dtype)
    return model.eval().requires_grad_(False)
