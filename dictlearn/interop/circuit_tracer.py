"""circuit-tracer: a folder with `layer_{i}.safetensors` for each layer and one `config.yaml`.

A set of transcoders is written one dictionary after the other into one folder. It is complete
when its layers run from 0 without a gap, which is for whoever writes them to see to.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopK
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoder
from dictlearn.dictionaries.jumprelu_sae import JumpReLU
from dictlearn.dictionaries.linear import Rule
from dictlearn.dictionaries.sae import ReLU
from dictlearn.dictionaries.topk_sae import TopK
from dictlearn.interop import circuit_tracer_clt
from dictlearn.interop.circuit_tracer_config import (
    CONFIG_FILE,
    CROSS_LAYER,
    HOOK,
    SET,
    TracerConfig,
    read_config,
    require_kind,
)
from dictlearn.interop.files import EXPORT, TensorFile, cast, require_widths, sites_named
from dictlearn.interop.ours import built, folded
from dictlearn.interop.weights import LinearWeights

LIBRARY = "circuit-tracer"
THRESHOLD = "activation_function.threshold"
_LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors")

_RULES = (ReLU, TopK, BatchTopK, JumpReLU)


def write(dictionary: FeatureDictionary, path: Path) -> Path:
    """Write `dictionary` as one layer of the set in the folder `path`; the layer's file.

    A cross-layer transcoder is written whole, and the folder returned.

    Raises:
        InputError: it is no transcoder within one layer, or differs from the layers in the folder
            in hooks, model or selection, or a cross-layer transcoder or a file that no export wrote
            is in the way.
    """
    if isinstance(dictionary, CrossLayerTranscoder):
        return circuit_tracer_clt.write(dictionary, path)
    weights, sites = folded(dictionary, LIBRARY).uncentred(), dictionary.sites
    source, target = HOOK.fullmatch(sites.source.hook), HOOK.fullmatch(sites.target.hook)
    if (
        source is None or target is None or source[1] != target[1] or sites.is_autoencoder
        or sites.source.d != sites.target.d or not isinstance(weights.rule, _RULES)
    ):  # fmt: skip
        raise InputError(
            f"{LIBRARY} holds transcoders of one width between hooks blocks.LAYER.NAME of one "
            f"layer; got {sites} with widths {sites.source.d} and {sites.target.d}"
        )
    k = weights.rule.k if isinstance(weights.rule, TopK) else None
    config = TracerConfig(
        SET,
        source[2],
        target[2],
        model_name=dictionary.provenance.model,
        activation="topk" if k else None,
        k=k,
    )
    tensors = {
        "W_enc": weights.W_enc.T,
        "b_enc": weights.b_enc,
        "W_dec": weights.W_dec,
        "b_dec": weights.b_dec,
    }
    if weights.W_skip is not None:
        tensors["W_skip"] = weights.W_skip.T
    if "threshold" in weights.learned:
        tensors[THRESHOLD] = weights.learned["threshold"].expand_as(weights.b_enc)
    written = cast(tensors, dictionary)
    own = OwnFiles.of(path, EXPORT, sum(t.nbytes for t in written.values()))
    folder, file = own.path, own.path / f"layer_{source[1]}.safetensors"
    others = [other for other in _layers(folder) if other != file]
    require_kind(folder, SET)
    if others and read_config(folder) != config:
        raise InputError(
            f"{folder}: its other layers ({', '.join(o.name for o in others)}) have another "
            f"{CONFIG_FILE}; a set shares hooks, model and selection. Choose another folder"
        )
    own.require(file.name, *([] if others else [CONFIG_FILE]))
    own.write_tensors(file.name, written, {"format": "pt"})
    if not others:  # elsewhere the config says the same already
        config.write(own)
    return file


def read(path: Path, sites: Sites | None) -> FeatureDictionary:
    """The transcoder in the file `path`, or in a folder with one layer or across all layers.

    Raises:
        CorruptFileError: a file is absent, truncated, or not in this format.
        InputError: the folder holds several layers, or nothing of ours computes the same.
    """
    layers = [path] if path.suffix == ".safetensors" else _layers(path)
    if not layers and (path / CONFIG_FILE).is_file():
        config = read_config(path)
        if config.model_kind == CROSS_LAYER:
            return circuit_tracer_clt.read(path, config, sites)
    if len(layers) != 1:
        names = ", ".join(layer.name for layer in layers) or "none"
        raise InputError(f"{path}: required one layer's file; it has {names}: give one by its path")
    [layer_path] = layers
    config_path = layer_path.parent / CONFIG_FILE
    config = read_config(layer_path.parent)
    if config.model_kind != SET:
        raise InputError(
            f"{config_path}: required model_kind {SET!r}, got {config.model_kind!r:.80}; a "
            f"{CROSS_LAYER} is read by its folder"
        )
    file = TensorFile(layer_path)
    W_enc = file.take("W_enc", None, None).T
    d, n_features = W_enc.shape
    b_enc, b_dec = file.take("b_enc", n_features), file.take("b_dec", d)
    rule, learned = _rule(file, config, n_features, config_path)
    weights = LinearWeights(
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=file.take("W_dec", n_features, d),
        b_dec=b_dec,
        centre=torch.zeros_like(b_dec),
        rule=rule,
        learned=learned,
        W_skip=file.take("W_skip", d, d).T if "W_skip" in file else None,
    )
    file.finish()
    if sites is None:
        number = _LAYER_FILE.fullmatch(layer_path.name)
        block = f"blocks.{number[1]}." if number else ""
        source, target = config.feature_input_hook, config.feature_output_hook
        sites = sites_named(block + source, block + target, (d, d))
    provenance = Provenance(model=config.model_name, versions={})
    return built(weights, require_widths(sites, (d, d), path), provenance, file.dtype, path)


def _layers(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("layer_*.safetensors") if _LAYER_FILE.fullmatch(p.name))


def _rule(
    file: TensorFile, config: TracerConfig, n_features: int, path: Path
) -> tuple[Rule, dict[str, Tensor]]:
    """The rule of the set, and its parameters in this layer."""
    # Its own writer leaves a tensor k, which its reader refuses.
    k = file.count("k") if "k" in file else config.k
    has_threshold, named = THRESHOLD in file, config.activation
    found = "jumprelu" if has_threshold else "topk" if k else "relu"
    if named not in (None, found) or (has_threshold and k):
        raise CorruptFileError(
            f"{path}: activation {named!r} and k {k!r} do not fit {file.path.name}, which has "
            f"{'' if has_threshold else 'no '}thresholds"
        )
    if has_threshold:
        return JumpReLU(), {"threshold": file.take(THRESHOLD, n_features)}
    return (TopK(k) if k else ReLU()), {}
