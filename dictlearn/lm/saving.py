"""Saving a language model, such as one that was finetuned with dictionaries in it."""

import json
from pathlib import Path
from typing import Any

from dictlearn.core.errors import InputError
from dictlearn.core.files import JSON_FORMAT
from dictlearn.core.own_files import OwnFiles
from dictlearn.lm.hooks import LanguageModel, is_native, require_hooks, wrapped
from dictlearn.lm.identity import model_name, parameters_of

SAVED_FILE, WEIGHTS_FILE, MODEL_CONFIG_FILE = (
    "saved_model.json",
    "weights.safetensors",
    "config.json",
)
TOKENIZER_FILE = "tokenizer.json"
_NATIVE_FIELDS = (
    "n_layers", "d_model", "d_mlp", "n_heads", "d_head", "n_ctx", "d_vocab", "act_fn",
    "normalization_type", "eps", "positional_embedding_type",
)  # fmt: skip


def save_model(model: LanguageModel, folder: str | Path | OwnFiles) -> Path:
    """Write a model to `folder`, for `load_model` to read; the folder.

    The folder holds the config (that of Hugging Face, or of a native model), the parameters by the
    names that TransformerLens gives them, the tokenizer if it is a fast one, and a file with their
    hash. TransformerLens divides fused attention weights: it is no folder for transformers.

    Raises:
        InputError: the model is no `TransformerBridge`, or its weights were folded on loading; or
            the folder holds files that were not saved there.
        StorageError: the folder cannot be written.
    """
    require_hooks(model)
    if wrapped(model) is None or getattr(model, "_weights_processed", False):
        raise InputError(
            "required a TransformerBridge with the weights that it was loaded with, got "
            f"{type(model).__name__} with others; load the model with load_model"
        )
    tensors = parameters_of(model)
    own = OwnFiles.of(folder, "saving a model", sum(t.nbytes for t in tensors.values()))
    own.require(SAVED_FILE, WEIGHTS_FILE, MODEL_CONFIG_FILE, TOKENIZER_FILE)
    own.remove(SAVED_FILE)
    weights = {name: p.detach() for name, p in tensors.items()}
    own.write_tensors(WEIGHTS_FILE, weights, {"format": str(JSON_FORMAT)})
    own.write_text(MODEL_CONFIG_FILE, _config_text(model))
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if backend is not None:
        own.write_text(TOKENIZER_FILE, backend.to_str())
    own.write_json(
        SAVED_FILE,
        {
            "native": is_native(model),
            "name": model_name(model),
            "special_tokens": _special_tokens(model),
            "weights_sha256": own.sha256(WEIGHTS_FILE),
        },
    )
    return own.path


def _config_text(model: LanguageModel) -> str:
    if is_native(model):
        fields = {name: getattr(model.cfg, name) for name in _NATIVE_FIELDS}
        return json.dumps(fields, indent=2) + "\n"
    return str(model.original_model.config.to_json_string())


def _special_tokens(model: LanguageModel) -> dict[str, Any]:
    tokenizer = getattr(model, "tokenizer", None)
    return {} if tokenizer is None else {
        name: str(token) for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }  # fmt: skip
