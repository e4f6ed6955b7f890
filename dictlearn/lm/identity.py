"""Identity of a language model: its name, and a fingerprint of its weights."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.provenance import Provenance
from dictlearn.lm.hooks import LanguageModel

SAMPLED = 1 << 16
"""Elements of each parameter that enter the fingerprint, at most."""


def model_provenance(model: LanguageModel) -> Provenance:
    """The provenance of activations of `model`: name, fingerprints, dtype, processing and path."""
    return Provenance(
        model=model_name(model),
        model_hash=model_hash(model),
        weights_hash=weights_hash(model),
        dtype=model_dtype(model),
        weight_processing=weight_processing(model),
        model_check=str(getattr(model.cfg, "model_check", "")),
        model_path=str(getattr(model.cfg, "loaded_from", "")),
    )


def require_same_model(model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary]) -> None:
    """Raise a `ProvenanceError` if a dictionary is known to be of another model."""
    known = {name: d.provenance for name, d in dictionaries.items() if d.provenance.fingerprint}
    if known:
        here = model_provenance(model)
        for name, provenance in known.items():
            provenance.require_same_model(here, name)


def model_name(model: LanguageModel) -> str:
    """The name under which `model` was loaded; of a local folder, only the last part."""
    name = str(getattr(model.cfg, "model_name", "") or "")
    path = Path(name).expanduser()
    is_local = path.is_absolute() or name.startswith(".") or path.is_dir()
    return path.resolve().name if name and is_local else name


def model_hash(model: LanguageModel) -> str:
    """The SHA-256 of the parameters of `model` in the order of their names.

    The bias of the unembedding counts as one, which every version of TransformerLens adds where
    a model has none: as a parameter before 4.2, and under the same name as a buffer since.

    Of each parameter the name, dtype, shape and at most `SAMPLED` evenly spaced elements enter,
    so that large models take a second too; a change confined to other elements goes unseen.
    """
    digest = hashlib.sha256()
    for name, parameter in _parameters(model):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(_bytes(_sample(parameter)))
    return digest.hexdigest()


def weights_hash(model: LanguageModel) -> str:
    """The SHA-256 of the parameters of `model` rounded to bfloat16, in the order of their names.

    It belongs to the weights as published: a checkpoint has the same one loaded in float32 and in
    bfloat16, whichever of these (or float16) it was published in. In float16 it has the same one
    unless the weights are rounded on loading. Else as `model_hash`.
    """
    digest = hashlib.sha256()
    for name, parameter in _parameters(model):
        sample = _sample(parameter)
        rounded = sample.to(torch.bfloat16) if sample.is_floating_point() else sample
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(_bytes(rounded))
    return digest.hexdigest()


def model_dtype(model: LanguageModel) -> str:
    """The type of most of the numbers of `model`, without its prefix: "float32"."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        sizes[parameter.dtype] += parameter.numel()
    return str(sizes.most_common(1)[0][0]).removeprefix("torch.") if sizes else ""


def parameters_of(model: LanguageModel) -> dict[str, nn.Parameter]:
    """The parameters of `model`, by the names that they have without those of the bridge."""
    return {_plain(name): parameter for name, parameter in model.named_parameters()}


def _plain(name: str) -> str:
    return name.replace("._original_component", "")


def _parameters(model: LanguageModel) -> list[tuple[str, Tensor]]:
    buffers = ((_plain(name), buffer) for name, buffer in _bias_in_a_buffer(model))
    return sorted((*parameters_of(model).items(), *buffers), key=lambda found: found[0])


def weight_processing(model: LanguageModel) -> str:
    """The processing of the weights by TransformerLens on loading, as far as it is known.

    "none" for a bridge, "processed" for one in compatibility mode with its weights
    folded and centred, "fold_ln" for a `HookedTransformer` whose normalisation has no weights,
    and "" (unknown) for any other `HookedTransformer`.
    """
    processed = getattr(model, "_weights_processed", None)
    if processed is not None:
        return "processed" if processed else "none"
    return "fold_ln" if str(model.cfg.normalization_type).endswith("Pre") else ""


def _bias_in_a_buffer(model: LanguageModel) -> list[tuple[str, Tensor]]:
    """The bias of the unembedding if it is a buffer, under the name that a parameter would have."""
    bias = getattr(getattr(model, "unembed", None), "b_U", None)
    if not isinstance(bias, Tensor):
        return []
    # A bridge gives its parameters the names that they have in the module it wraps.
    wrapped = model.original_model if hasattr(model, "original_model") else model
    return [(name, buffer) for name, buffer in wrapped.named_buffers() if buffer is bias]


def _sample(parameter: Shaped[Tensor, "..."]) -> Shaped[Tensor, " n"]:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // SAMPLED))].contiguous().cpu()


def _bytes(sample: Shaped[Tensor, " n"]) -> bytes:
    return sample.view(torch.uint8).numpy().tobytes()
