"""Small configurations of the decoders that transformers and TransformerLens both know."""

from typing import Any

import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OWN: dict[str, dict[str, Any]] = {
    "codegen": {**GPT, "rotary_dim": 4, "n_ctx": 64},
    "exaone4": {"sliding_window": 8},
    "falcon": {"new_decoder_architecture": False, "multi_query": False, "alibi": False},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 8},
    "gemma3_text": {"query_pre_attn_scalar": 8, "sliding_window": 8},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {"num_heads": 4, "num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {**GPT, "rotary_dim": 4},
    "granitemoe": EXPERTS,
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 2},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "olmoe": EXPERTS,
    "openai-gpt": GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
}
EVERYWHERE = (
    "cohere", "cohere2", "gemma", "gemma2", "gpt2", "gpt_neox", "gptj", "llama", "mistral", "opt",
    "phi", "qwen2", "qwen3",
)  # fmt: skip
"""Those that the default run loads."""
OTHERS = (
    "apertus", "arcee", "bloom", "codegen", "ernie4_5", "exaone4", "falcon", "gemma3_text", "glm",
    "glm4", "gpt_bigcode", "gpt_neo", "gpt_oss", "granite", "granitemoe", "jetmoe",
    "mamba", "mamba2", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "olmoe",
    "openai-gpt", "phi3", "qwen2_moe", "qwen3_moe", "seed_oss", "smollm3", "stablelm",
    "starcoder2", "xglm",
)  # fmt: skip


def small_config(model_type: str) -> Any:
    """The configuration of a small model of this type."""
    kind = transformers.CONFIG_MAPPING[model_type]
    shared = {key: value for key, value in HEADS.items() if key in kind.__annotations__}
    return kind(**{**SIZES, **shared, **OWN.get(model_type, {})})
