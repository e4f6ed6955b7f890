"""Codebook models as the authors' code saves them: `config.json` and `model.safetensors`.

The folder holds the weights of a GPT-2, GPT-Neo or GPT-NeoX with codebooks among its modules, but
not the config of that model (Tamkin, Taufeeque and Goodman 2024, "Codebook Features", and
github.com/taufeeque9/codebook-features). A codebook there is a LayerNorm, the k nearest codes, and
their mean. A module that was wrapped to hold one is named `NAME.module_layer`.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import entries_of, read_json, read_tensors
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.codebook import Codebook, CodebookConfig
from dictlearn.dictionaries.files import require_finite_weights
from dictlearn.interop.files import TensorFile, count, entry, require_known

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_MODEL_TYPE = "codebook"
_READ = (
    "codebook_at", "codebook_kwargs", "codebook_type", "k_codebook", "layers_to_snap",
    "num_codebooks", "num_codes", "similarity_metric",
)  # fmt: skip
_OF_TRAINING = (
    "kmeans_init", "kmeans_init_examples", "kmeans_kwargs", "kmeans_path", "loss", "replace_codes",
)  # fmt: skip
_OF_TRANSFORMERS = (
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "model_type",
    "pad_token_id", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
_LAYOUTS = (
    ("transformer.h", "attn.attention"), ("transformer.h", "attn"), ("gpt_neox.layers", "attention")
)  # fmt: skip
"""The list of layers and the attention in a layer, of GPT-Neo, GPT-2 and GPT-NeoX; GPT-Neo has the
attention of GPT-2 as a parent."""
_SIMILARITIES = {"inner_product": "cosine", "euclidean": "euclidean"}
"""Ours, by theirs, whose inner products are with codes of unit norm."""
_PLACES = {
    "attn_preproj": ("attention", "attn.hook_z"),
    "attn": ("attention", "hook_attn_out"),
    "mlp_mid": ("mlp.act", "mlp.hook_post"),
    "mlp": ("mlp", "hook_mlp_out"),
    "transformer_block": ("", "hook_resid_post"),
    "preproj_attention": ("attention", "attn.hook_z"),
    "attention": ("attention", "hook_attn_out"),
}
"""The module of a layer that holds the codebook, and the hook whose activation it replaces, by
`codebook_at`; the last two names are those of earlier versions."""
_IS_GROUP = {"vanilla": False, "group": True, "compositional": True}
"""By `codebook_type`; the last name is that of earlier versions."""
_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
"""Causal masks, which older versions of transformers saved beside parameters."""


@dataclass(frozen=True)
class Released:
    """The content of a folder."""

    codebooks: dict[str, Codebook]
    """By the hook whose activation each replaces, without provenance."""
    weights: dict[str, Tensor]
    """Those of the model, by their names in transformers."""
    config: dict[str, Any]


@dataclass(frozen=True)
class _Setting:
    """The settings of the codebooks at one place, in all layers."""

    module: str
    hook: str
    is_group: bool
    n_groups: int
    """-1 for as many as there are; heads, in their code."""
    n_codes: int
    k: int
    similarity: str


def is_released(folder: Path) -> bool:
    """Whether `folder` has a config that calls itself a codebook model's.

    Raises:
        CorruptFileError: it has a config that is no JSON object.
    """
    path = folder / CONFIG_FILE
    return path.is_file() and read_json(path).get("model_type") == _MODEL_TYPE


def read_released(folder: Path) -> Released:
    """The codebooks in `folder`, and the weights of the model around them.

    Raises:
        InputError: a setting cannot be expressed here or is unknown, the weights are in another
            format, or belong to another architecture.
        CorruptFileError: a file is absent, truncated, or does not fit the other.
        NonFiniteError: a weight of a codebook is NaN or infinite.
    """
    with entries_of(folder):
        config_path, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        config = read_json(config_path)
        settings = _settings(config, config_path)
        tensors = _tensors(path)
        inside = {n: t for n, t in tensors.items() if ".codebook_layer." in n}
        weights = {n: t for n, t in tensors.items() if n not in inside and not _MASK.search(n)}
        blocks, attention = _layout(weights, path)
        file, codebooks = TensorFile(path, inside), dict[str, Codebook]()
        for layer in _layers(config, blocks, weights, config_path):
            for setting in settings:
                module = attention if setting.module == "attention" else setting.module
                name = ".".join(filter(None, (blocks, str(layer), module, "codebook_layer")))
                hook = f"blocks.{layer}.{setting.hook}"
                codebooks[hook] = _codebook(file, name, hook, setting)
                require_finite_weights(codebooks[hook], path)
        file.finish()
    return Released(codebooks, weights, config)


def _settings(config: Mapping[str, Any], path: Path) -> list[_Setting]:
    """The settings of each place."""
    require_known(config, (*_READ, *_OF_TRAINING, *_OF_TRANSFORMERS), path)
    metric = _chosen(config, "similarity_metric", _SIMILARITIES, path)
    extra = entry(config, "codebook_kwargs", dict, path) if config.get("codebook_kwargs") else {}
    require_known(extra, ("replace_after_steps", "replace_rho"), path)
    at = config.get("codebook_at")
    places = at if isinstance(at, list) else [at]
    of_each: list[dict[str, Any]] = [{"codebook_at": place} for place in places]
    for key in ("codebook_type", "num_codebooks", "num_codes", "k_codebook"):
        given = config.get(key)
        values = given if isinstance(given, list) else [given] * len(places)
        if len(values) != len(places):
            raise CorruptFileError(
                f"{path}: the entry {key!r} must be one value or {len(places)}, one for each of "
                f"codebook_at, got {given!r:.80}"
            )
        for own, value in zip(of_each, values, strict=True):
            own[key] = value
    settings = [_setting(own, _SIMILARITIES[metric], path) for own in of_each]
    for (outer, first), (inner, then) in combinations(zip(settings, places, strict=True), 2):
        if f"{inner.module}.".startswith(f"{outer.module}." if outer.module else ""):
            raise InputError(
                f"{path}: codebook_at has {then!r} after {first!r}, whose module contains that of "
                "the other, so that the library leaves one out of the pass or out of the file; "
                "required inner modules before outer ones, and one codebook in a module"
            )
    return settings


def _setting(own: Mapping[str, Any], similarity: str, path: Path) -> _Setting:
    """The settings of one place, from its own entries."""
    module, hook = _PLACES[_chosen(own, "codebook_at", _PLACES, path)]
    is_group = _IS_GROUP[_chosen(own, "codebook_type", _IS_GROUP, path)]
    any_number = is_group and own["num_codebooks"] == -1
    n_groups = -1 if any_number else count(own, "num_codebooks", path)
    if not is_group and n_groups != 1:
        raise InputError(
            f"{path}: num_codebooks is {n_groups} where codebook_type is 'vanilla'; required 1, or "
            "the type 'group'"
        )
    n_codes, k = count(own, "num_codes", path), count(own, "k_codebook", path)
    return _Setting(module, hook, is_group, n_groups, n_codes, k, similarity)


def _chosen(data: Mapping[str, Any], key: str, valid: Collection[str], path: Path) -> str:
    """The entry `key`, one of `valid`; an `InputError` if it is none of them."""
    value = data.get(key)
    if not isinstance(value, str) or value not in valid:
        raise InputError(
            f"{path}: {key} is {value!r:.80}; read here are {', '.join(map(repr, valid))}"
        )
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors, by the names that they would have in a model without wrapped modules."""
    pickled = path.with_name("pytorch_model.bin")
    if pickled.is_file() and not path.is_file():
        raise InputError(
            f"{pickled}: required {path.name}, since pickle can run code; convert it once, in its "
            "folder: save_file({n: t.clone() for n, t in torch.load('pytorch_model.bin', "
            "weights_only=True).items()}, 'model.safetensors'), with save_file of safetensors.torch"
        )
    tensors = read_tensors(path)
    named = {
        name.removeprefix("model.").replace(".module_layer", ""): tensor
        for name, tensor in tensors.items()
    }
    if len(named) < len(tensors):
        raise CorruptFileError(
            f"{path}: holds tensors whose names differ in 'model.' or '.module_layer' alone; it "
            "was not written by the library, or with a codebook_at that runs one of two modules"
        )
    return named


def _layout(weights: Mapping[str, Tensor], path: Path) -> tuple[str, str]:
    """The list of layers and the attention of the architecture that the weights are named for."""
    for blocks, attention in _LAYOUTS:
        if any(name.startswith(f"{blocks}.0.{attention}.") for name in weights):
            return blocks, attention
    raise InputError(
        f"{path}: required weights of GPT-2, GPT-Neo or GPT-NeoX, which the library puts codebooks "
        f"in, got {', '.join(sorted(weights)[:4]) or 'none'}"
    )


def _layers(
    config: Mapping[str, Any], blocks: str, weights: Mapping[str, Tensor], path: Path
) -> list[int]:
    """The layers with codebooks, from 0 and in order."""
    numbers = (re.match(rf"{re.escape(blocks)}\.(\d{{1,9}})\.", name) for name in weights)
    n = 1 + max(int(found[1]) for found in numbers if found)
    given = config.get("layers_to_snap")
    if given == "all":
        return list(range(n))
    if not isinstance(given, list) or not all(type(i) is int and -n <= i < n for i in given):
        raise CorruptFileError(
            f"{path}: layers_to_snap must be 'all' or a list of numbers from {-n} to {n - 1}, got "
            f"{given!r:.80}"
        )
    return sorted({i % n for i in given})


def _codebook(file: TensorFile, name: str, hook: str, setting: _Setting) -> Codebook:
    """The codebook in the module `name`, whose tensors are taken from `file`."""
    n_groups = setting.n_groups
    if n_groups == -1:
        n_groups = 1
        while f"{name}.codebook.{n_groups}.codebook.weight" in file:
            n_groups += 1
    learned: dict[str, list[Tensor]] = {"codes": [], "norm_weight": [], "norm_bias": []}
    width: int | None = None
    for group in range(n_groups):
        prefix = f"{name}.codebook.{group}" if setting.is_group else name
        learned["codes"].append(file.take(f"{prefix}.codebook.weight", setting.n_codes, width))
        width = learned["codes"][0].shape[1]
        learned["norm_weight"].append(file.take(f"{prefix}.ln.weight", width))
        learned["norm_bias"].append(file.take(f"{prefix}.ln.bias", width))
    config = CodebookConfig(
        n_codes=setting.n_codes, k=setting.k, n_groups=n_groups, similarity=setting.similarity,
        combine="mean", input_norm=True,
    )  # fmt: skip
    site = Site(hook, sum(codes.shape[1] for codes in learned["codes"]))
    codebook = config.build(Sites(site, site)).to(file.dtype).eval()
    with torch.no_grad():
        for parameter, values in learned.items():
            getattr(codebook, parameter).copy_(torch.stack(values))
    return codebook
