"""Loading a language model with hooks: the built-in one, a local folder, or from the hub."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from dictlearn.core.devices import usable_device
from dictlearn.core.errors import CorruptFileError, InputError, nearest
from dictlearn.core.files import entries_of, read_json, read_own_json, read_tensors, typed
from dictlearn.lm.builtin import BUILTIN_MODELS
from dictlearn.lm.hooks import LanguageModel, require_hooks
from dictlearn.lm.hub import has_tokenizer, located
from dictlearn.lm.identity import parameters_of
from dictlearn.lm.originals import Original
from dictlearn.lm.saving import (
    MODEL_CONFIG_FILE,
    SAVED_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from dictlearn.progress import announced

SEPARATOR = "<|endoftext|>"


def load_model(
    name: str | Path | LanguageModel,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    check: bool = True,
) -> LanguageModel:
    """A language model with TransformerLens hooks, in evaluation mode and without gradients.

    TransformerLens computes some architectures differently from Hugging Face. A model from a
    folder or the hub is therefore compared with its original: the logits of a few tokens, from
    the weights that are loaded anyway. A model without a tokenizer has None as its `tokenizer`.

    Args:
        name: a key of `BUILTIN_MODELS`, a local folder in the Hugging Face layout or written by
            `save_model`, a Hugging Face id, or a loaded `TransformerBridge` or `HookedTransformer`,
            which is returned as it is.
        device: the GPU if there is one, unless given (`core.devices`).
        dtype: float32 unless given.
        check: compare with the original. Without, the provenance of activations says so.

    Raises:
        InputError: there is no such model or device, the model cannot be reached or loaded, it has
            no hooks, or its logits differ from those of the original.
        CorruptFileError: the files of the built-in model are absent or damaged.
    """
    if not isinstance(name, str | Path):
        require_hooks(name)
        return name
    device = usable_device(device)
    dtype = dtype or torch.float32
    if str(name).startswith("builtin:"):
        model = _boot_builtin(str(name), device, dtype)
    elif (Path(name) / SAVED_FILE).is_file():
        model = _boot_saved(Path(name), device, dtype)
    else:
        found = _resolved(name)
        with announced(f"loading {name} …"):
            model = _boot_transformers(found, device, dtype, check=check)
        if Path(found).is_dir():
            model.cfg.loaded_from = str(Path(found).resolve())
    return model.eval().requires_grad_(False)


def load_weights(name: str | Path, weights: Mapping[str, torch.Tensor]) -> LanguageModel:
    """The model that `load_model(name)` returns, with other weights, named as in transformers.

    Config and tokenizer are those of `name`, a local folder in the Hugging Face layout or a
    Hugging Face id; weights are not needed there.

    Raises:
        InputError: see `load_model`; or there are too few weights, too many, or of other shapes.
    """
    if str(name) in BUILTIN_MODELS:
        raise InputError(
            f"required a Hugging Face id or a folder with a config.json, got {str(name)!r}; name "
            "the model that the weights belong to, or that they were trained from"
        )
    model = _boot_transformers(_resolved(name), usable_device(), torch.float32, weights=weights)
    return model.eval().requires_grad_(False)


def _boot_builtin(name: str, device: str | torch.device, dtype: torch.dtype) -> LanguageModel:
    if name not in BUILTIN_MODELS:
        raise InputError(f"no built-in model {name!r}; {nearest(name, BUILTIN_MODELS)}")
    with as_file(files("dictlearn.assets") / name.removeprefix("builtin:")) as folder:
        return boot_native_folder(folder, name, device, dtype)


def _boot_saved(folder: Path, device: str | torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model that `save_model` wrote to `folder`."""
    from transformer_lens.model_bridge import TransformerBridge

    path = folder / SAVED_FILE
    data = read_own_json(path, "a model", "save the model again")
    with entries_of(path):
        native, name = typed(data["native"], bool), typed(data["name"], str)
        weights_hash = typed(data["weights_sha256"], str)
        special = typed(data["special_tokens"], dict[str, str])
    weights = read_tensors(folder / WEIGHTS_FILE, weights_hash)
    tokenizer = _tokenizer(folder, special)
    if native:
        config = read_json(folder / MODEL_CONFIG_FILE) | {"seed": 0}
        model = TransformerBridge.boot_native(config, device=device, dtype=dtype, model_name=name)
    else:
        with _quiet(), entries_of(folder / MODEL_CONFIG_FILE):
            model = TransformerBridge.boot_transformers(
                str(folder), device=device, dtype=dtype, load_weights=False,
                tokenizer=tokenizer or _stand_in(),
            )  # fmt: skip
    _fill(model, weights, folder)
    if native or tokenizer is None:
        model.tokenizer = tokenizer
    model.cfg.model_name = name
    model.cfg.model_check, model.cfg.loaded_from = "saved", str(folder.resolve())
    return model


def _tokenizer(folder: Path, special: Mapping[str, str]) -> Any:
    """The tokenizer saved in `folder`, or None."""
    from transformers import PreTrainedTokenizerFast

    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return None
    with entries_of(path):
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), **special)
    # TransformerLens had the tokenizer add BOS before it was saved; else it would load it again.
    tokenizer.init_kwargs |= {"name_or_path": str(folder), "add_bos_token": True}
    return tokenizer


def boot_native_folder(
    folder: Path, name: str, device: str | torch.device, dtype: torch.dtype
) -> LanguageModel:
    """The TransformerLens native model saved in `folder`, known as `name`.

    `config.json` holds the fields of `TransformerBridgeConfig`, `model.safetensors` the
    parameters of the native module by its own names, `tokenizer.json` a tokenizer with the one
    special token `<|endoftext|>`. Absent, damaged or other files are a `CorruptFileError`.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    config = read_json(folder / "config.json")
    config.pop("held_out_loss", None)
    weights = read_tensors(folder / "model.safetensors")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CorruptFileError(f"{path}: cannot be read; install the package again")
    model = TransformerBridge.boot_native(
        config | {"seed": 0}, device=device, dtype=dtype, model_name=name
    )  # the seed keeps the caller's random numbers out of it
    _fill(model, weights, folder)
    # Set afterwards: boot_native would reload the tokenizer by its name, and it has none.
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=SEPARATOR, eos_token=SEPARATOR, pad_token=SEPARATOR
    )
    model.cfg.tokenizer_prepends_bos = False
    return model


@torch.no_grad()
def _fill(model: LanguageModel, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Copy the weights in, each by its name: the bridge's own loading misses some."""
    parameters = parameters_of(model)
    missing = parameters.keys() - weights.keys() - {"head.bias"}  # zeros that the bridge may add
    if missing or weights.keys() - parameters.keys():
        raise CorruptFileError(
            f"{folder}: the weights do not fit the config; missing or unknown: "
            f"{', '.join(sorted(missing | (weights.keys() - parameters.keys())))}"
        )
    for name, tensor in weights.items():
        if tensor.shape != parameters[name].shape:
            raise CorruptFileError(
                f"{folder}: the weights do not fit the config: {name} of shape "
                f"{tuple(tensor.shape)} instead of {tuple(parameters[name].shape)}"
            )
        parameters[name].copy_(tensor)


def _resolved(name: str | Path) -> str:
    """The folder or Hugging Face id that `name` stands for; no network is asked."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path}: required a Hugging Face model folder, got no config.json")
        return str(path)
    is_path = isinstance(name, Path) or path.is_absolute() or name.startswith((".", "~"))
    if is_path or path.exists() or len(path.parts) > 2:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) if siblings else "its parent does not exist either"
        raise InputError(f"required a folder, a Hugging Face id or a built-in model, got {path}, "
                         f"which is no folder; {hint}")  # fmt: skip
    return str(name)


def _boot_transformers(
    name: str, device: str | torch.device, dtype: torch.dtype, *, check: bool = True,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> LanguageModel:  # fmt: skip
    from transformer_lens.model_bridge import TransformerBridge

    path = located(name)
    original = Original(device, weights)
    model_class: Any = original if check else None
    try:
        bare = not has_tokenizer(path)
        with _quiet():
            model = TransformerBridge.boot_transformers(
                path, device=device, dtype=dtype, tokenizer=_stand_in() if bare else None,
                model_class=model_class,
            )  # fmt: skip
    except Exception as error:  # three libraries read what people upload
        raise InputError(
            f"the model {name!r} could not be loaded ({type(error).__name__}: {error}); check the "
            "name, the files and whether TransformerLens has this architecture, or use a local "
            f"folder or one of {', '.join(BUILTIN_MODELS)}"
        ) from error
    if bare:
        model.tokenizer = None
    model.cfg.model_name = name  # `path` may lie in the cache of the hub
    model.cfg.model_check = "equal" if check else "skipped"
    if check:
        original.require_equal(model.eval(), name, dtype)
    return model


def _stand_in() -> Any:
    """A tokenizer of one token: TransformerLens loads no model without a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = Tokenizer(models.WordLevel({SEPARATOR: 0}, unk_token=SEPARATOR))
    return PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token=SEPARATOR)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar of transformers, which stays on the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
