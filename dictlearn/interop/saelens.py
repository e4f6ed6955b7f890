"""SAELens: `cfg.json` and `sae_weights.safetensors` in a folder, as its version 6 writes them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, nearest
from dictlearn.core.files import read_json
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopK
from dictlearn.dictionaries.gated_sae import Gated
from dictlearn.dictionaries.jumprelu_sae import JumpReLU
from dictlearn.dictionaries.linear import Rule
from dictlearn.dictionaries.sae import ReLU
from dictlearn.dictionaries.topk_sae import TopK
from dictlearn.interop.files import (
    OWN_KEY,
    TensorFile,
    cast,
    count,
    entry,
    flag,
    own_provenance,
    require_known,
    require_widths,
    sites_named,
    write_folder,
)
from dictlearn.interop.ours import built, folded
from dictlearn.interop.weights import LinearWeights, gates

LIBRARY = "SAELens"
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FORMAT_VERSION = "6.54.12"
"""Its version whose format is written; without one, SAELens takes a config to be from before 6."""

AUTOENCODERS = ("standard", "topk", "gated", "jumprelu", "batchtopk", "matryoshka_batchtopk")
TRANSCODERS = (
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"
)  # fmt: skip
CHECKPOINTS = ("batchtopk", "matryoshka_batchtopk")
"""Architectures that SAELens has in training only."""
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_RESCALED = {"topk": False, **dict.fromkeys(CHECKPOINTS, True)}
"""The architectures with `rescale_acts_by_decoder_norm`, and its default in each."""
_READ = (
    "architecture", "d_in", "d_sae", "d_out", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata", "k", "rescale_acts_by_decoder_norm", "matryoshka_widths",
    "activation_fn",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "dtype", "device", "decoder_init_norm", "l1_coefficient", "lp_norm", "l1_warm_up_steps",
    "use_sparse_activations", "aux_loss_coefficient", "topk_threshold_lr",
    "use_matryoshka_aux_loss", "jumprelu_init_threshold", "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode", "l0_coefficient", "l0_warm_up_steps",
    "pre_act_loss_coefficient", "jumprelu_tanh_scale", "jumprelu_ste_to_input", "target_l0",
)  # fmt: skip
"""Settings of training in a checkpoint, which a trained dictionary does not depend on."""


def write(dictionary: FeatureDictionary, path: Path) -> Path:
    """Write `dictionary` for `sae_lens.SAE.load_from_disk`; the folder.

    Raises:
        InputError: SAELens has no architecture that computes the same.
    """
    weights, sites = folded(dictionary, LIBRARY), dictionary.sites
    is_autoencoder = sites.is_autoencoder and weights.W_skip is None
    weights = weights.centred_at_b_dec() if is_autoencoder else weights.uncentred()
    architecture, extra, extra_tensors = _architecture(weights, is_autoencoder)
    tensors = {"W_enc": weights.W_enc, "W_dec": weights.W_dec, "b_dec": weights.b_dec}
    if not isinstance(weights.rule, Gated):
        tensors["b_enc"] = weights.b_enc
    metadata: dict[str, Any] = {
        "sae_lens_version": FORMAT_VERSION,
        "model_name": dictionary.provenance.model or None,
        "hook_name": sites.source.hook,
        "exclude_special_tokens": dictionary.provenance.exclude_special,
        OWN_KEY: {"provenance": dictionary.provenance.to_dict()},
    }
    if not is_autoencoder:
        extra["d_out"], metadata["hook_name_out"] = sites.target.d, sites.target.hook
    heads = is_autoencoder and sites.source.hook.endswith("hook_z")
    config = {
        "architecture": architecture,
        "d_in": sites.source.d,
        "d_sae": dictionary.n_features,
        "dtype": str(dictionary.x_mean.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": is_autoencoder,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if heads else "none",
        "metadata": metadata,
    }
    written = cast(tensors | extra_tensors, dictionary)
    return write_folder(path, WEIGHTS_FILE, written, CONFIG_FILE, config | extra)


def _architecture(
    weights: LinearWeights, is_autoencoder: bool
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The name of the architecture, and its additional config entries and tensors."""
    side = "" if is_autoencoder else "transcoder" if weights.W_skip is None else "skip_transcoder"
    skip = {} if weights.W_skip is None else {"W_skip": weights.W_skip.T}
    match weights.rule:
        case ReLU():
            return side or "standard", {}, skip
        case JumpReLU() | BatchTopK():
            thresholds = weights.learned["threshold"].expand_as(weights.b_enc)
            return "_".join(filter(None, ("jumprelu", side))), {}, {"threshold": thresholds, **skip}
        case TopK(k) if is_autoencoder:
            return "topk", {"k": k, "rescale_acts_by_decoder_norm": False}, {}
        case Gated() if is_autoencoder:
            learned = {"r_mag": weights.learned["r_mag"], "b_mag": weights.b_mag}
            return "gated", {}, {"b_gate": weights.b_enc, **learned}
    raise InputError(
        f"{LIBRARY} has no architecture for a top-k transcoder: save it with "
        "format='circuit_tracer' or 'sparsify', or without format="
    )


def read(path: Path, sites: Sites | None) -> FeatureDictionary:
    """The dictionary in the folder `path`; `sites` override the hooks that it names.

    Raises:
        CorruptFileError: a file is absent, truncated, or does not fit the other.
        InputError: no kind here computes the same.
    """
    config_path = path / CONFIG_FILE
    config = _modern(read_json(config_path), config_path)
    architecture = entry(config, "architecture", str, config_path)
    if architecture not in AUTOENCODERS + TRANSCODERS:
        known = AUTOENCODERS + TRANSCODERS
        raise InputError(
            f"{config_path}: no kind of ours computes what the {LIBRARY} architecture "
            f"{architecture!r} does; {nearest(architecture, known, n=len(known))}"
        )
    _refuse_unknown(config, config_path)
    file = TensorFile(path / WEIGHTS_FILE)
    weights = _weights(file, architecture, config, config_path)
    widths = (weights.W_enc.shape[0], weights.W_dec.shape[1])
    metadata = config["metadata"]
    if sites is None:
        source = metadata.get("hook_name") or "x"
        otherwise = source if architecture in AUTOENCODERS else "y"
        sites = sites_named(source, metadata.get("hook_name_out") or otherwise, widths)
    version = metadata.get("sae_lens_version")
    origin = Provenance(
        model=metadata.get("model_name") or "",
        exclude_special=bool(metadata.get("exclude_special_tokens")),
        versions={"sae-lens": str(version)} if version else {},
    )
    sites = require_widths(sites, widths, path)
    provenance = own_provenance(metadata, origin, config_path)
    return built(weights, sites, provenance, file.dtype, path)


def _modern(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A config in the form of version 6; before it, there was one level of entries.

    Of those, SAELens ignores what its version 6 has no field for: settings of training.
    """
    if isinstance(config.get("metadata"), dict):
        require_known(config, (*_READ, *_WITHOUT_EFFECT), path)
        return config
    flat = {_RENAMED.get(key, key): value for key, value in config.items()}
    arguments = flat.get("activation_fn_kwargs") or {}
    modern = {"architecture": "standard", "apply_b_dec_to_input": True} | flat
    if flat.get("activation_fn") == "topk":
        modern |= {"architecture": "topk", "k": arguments.get("k")}
    if "{layer}" in str(flat.get("hook_name")):
        layer = flat.get("hook_layer", flat.get("hook_point_layer"))
        flat["hook_name"] = str(flat["hook_name"]).replace("{layer}", str(layer))
    return modern | {"metadata": flat}


def _refuse_unknown(config: Mapping[str, Any], path: Path) -> None:
    """Check that nothing but the weights acts on activations.

    Raises:
        InputError: activations are normalized or selected first, or the non-linearity is another.
    """
    for key in ("hook_head_index", "hook_head_index_out"):
        head = config["metadata"].get(key)
        if head is not None:
            raise InputError(
                f"{path}: is of head {head!r:.80} alone ({key}), and sites here have all heads of "
                "a hook, flattened; no kind of ours computes the same"
            )
    if config.get("reshape_activations", "none") not in ("none", "hook_z"):
        raise InputError(
            f"{path}: required activations as they are or with heads flattened ('hook_z'), got "
            f"reshape_activations {config['reshape_activations']!r:.80}"
        )
    if config.get("normalize_activations") not in (None, False, "none"):
        raise InputError(
            f"{path}: normalizes activations ({config['normalize_activations']!r}) by what is not "
            "in the file; where that is one number, fold it into the weights with SAELens "
            "(SAE.fold_activation_norm_scaling_factor) and save again"
        )
    if config.get("activation_fn", "relu") not in ("relu", "topk"):
        raise InputError(f"{path}: required ReLU or top-k, got {config['activation_fn']!r}")


def _weights(
    file: TensorFile, architecture: str, config: Mapping[str, Any], path: Path
) -> LinearWeights:
    W_enc = file.take("W_enc", None, None)
    d_in, n_features = W_enc.shape
    is_autoencoder = architecture in AUTOENCODERS
    W_dec = file.take("W_dec", n_features, d_in if is_autoencoder else None)
    b_dec = file.take("b_dec", W_dec.shape[1])
    b_enc = file.take("b_gate" if architecture == "gated" else "b_enc", n_features)
    rule, learned = _rule(file, architecture, config, path, b_enc)
    for key, size in {"d_in": d_in, "d_sae": n_features, "d_out": W_dec.shape[1]}.items():
        if config.get(key, size) != size:
            raise CorruptFileError(
                f"{path}: has {key} = {config[key]!r:.80}, and the weights {size}"
            )
    default = _RESCALED.get(architecture)
    if default is not None and flag(config, "rescale_acts_by_decoder_norm", path, default):
        norms = W_dec.norm(dim=1).clamp_min(1e-8)
        W_enc, b_enc, W_dec = W_enc * norms, b_enc * norms, W_dec / norms.unsqueeze(1)
    W_skip = file.take("W_skip", W_dec.shape[1], d_in).T if "skip" in architecture else None
    if "scaling_factor" in file and not file.take("scaling_factor", n_features).eq(1).all():
        raise InputError(f"{path}: coefficients are rescaled after fine-tuning; fold that first")
    file.finish()
    prefixes: tuple[int, ...] = ()
    if architecture == "matryoshka_batchtopk":
        widths = enumerate(entry(config, "matryoshka_widths", list, path))
        named = {f"matryoshka_widths[{i}]": width for i, width in widths}
        sizes = [count(named, name, path) for name in named]
        prefixes = tuple(size for size in sizes if size < n_features)
    centre = torch.zeros(d_in, dtype=torch.float64)
    if entry(config, "apply_b_dec_to_input", bool, path):
        if not is_autoencoder:
            raise InputError(
                f"{path}: required apply_b_dec_to_input = false of a transcoder, as {LIBRARY} does"
            )
        centre = b_dec
    return LinearWeights(W_enc, b_enc, W_dec, b_dec, centre, rule, learned, W_skip, prefixes)


def _rule(
    file: TensorFile, architecture: str, config: Mapping[str, Any], path: Path, b_enc: Tensor
) -> tuple[Rule, dict[str, Tensor]]:
    """The rule of an architecture, and its parameters."""
    n_features = len(b_enc)
    match architecture:
        case "topk":
            return TopK(count(config, "k", path)), {}
        case "jumprelu" if "log_threshold" in file:
            return JumpReLU(), {"threshold": file.take("log_threshold", n_features).exp()}
        case "jumprelu" | "jumprelu_transcoder" | "jumprelu_skip_transcoder":
            return JumpReLU(), {"threshold": file.take("threshold", n_features)}
        case "batchtopk" | "matryoshka_batchtopk":  # a checkpoint of training
            k = entry(config, "k", float, path)  # a mean over tokens, so it may be a fraction
            if not (math.isfinite(k) and k > 0):
                raise CorruptFileError(f"{path}: the entry 'k' must be above 0, got {k!r}")
            return BatchTopK(max(1, round(k))), {"threshold": file.take("topk_threshold")}
        case "gated":
            r_mag, b_mag = file.take("r_mag", n_features), file.take("b_mag", n_features)
            return Gated(), gates(r_mag, b_mag, b_enc)
    return ReLU(), {}
