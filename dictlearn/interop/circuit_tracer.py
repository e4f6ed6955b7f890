"""circuit-tracer: a folder with `layer_{i}.safetensors` for each layer and one `config.yaml`.

A set of transcoders is written one dictionary after the other into one folder. It is complete
when its layers run from 0 without a gap, which is for whoever writes them to see to.
"""

import json
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
from dictlearn.interop.circuit_tracer_clt import CONFIG_FILE
from dictlearn.interop.files import EXPORT, TensorFile, cast, require_widths, sites_named
from dictlearn.interop.ours import built, folded
from dictlearn.interop.weights import LinearWeights

LIBRARY = "circuit-tracer"
THRESHOLD = "activation_function.threshold"
_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors")
_ENTRY = re.compile(r"(\w+):\s*(\S.*?)?\s*")

_RULES = (ReLU, TopK, BatchTopK, JumpReLU)


def write(dictionary: FeatureDictionary, path: Path) -> Path:
    """Write `dictionary` as one layer of the set in the folder `path`; the layer's file.

    A cross-layer transcoder is written whole, and the folder returned.

    Raises:
        InputError: it is no transcoder within one layer, or differs from the layers in the folder
            in hooks, model or selection, or a file is in the way that no export wrote there.
    """
    if isinstance(dictionary, CrossLayerTranscoder):
        return circuit_tracer_clt.write(dictionary, path)
    weights, sites = folded(dictionary, LIBRARY).uncentred(), dictionary.sites
    source, target = _HOOK.fullmatch(sites.source.hook), _HOOK.fullmatch(sites.target.hook)
    if (
        source is None or target is None or source[1] != target[1] or sites.is_autoencoder
        or sites.source.d != sites.target.d or not isinstance(weights.rule, _RULES)
    ):  # fmt: skip
        raise InputError(
            f"{LIBRARY} holds transcoders of one width between hooks blocks.LAYER.NAME of one "
            f"layer; got {sites} with widths {sites.source.d} and {sites.target.d}"
        )
    config: dict[str, str | int] = {
        "model_kind": "transcoder_set",
        "model_name": dictionary.provenance.model,
        "feature_input_hook": source[2],
        "feature_output_hook": target[2],
    }
    if isinstance(weights.rule, TopK):
        config |= {"activation": "topk", "k": weights.rule.k}
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
    if others and _read_yaml(folder / CONFIG_FILE) != {k: str(v) for k, v in config.items()}:
        raise InputError(
            f"{folder}: its other layers ({', '.join(o.name for o in others)}) have another "
            f"{CONFIG_FILE}; a set shares hooks, model and selection. Choose another folder"
        )
    own.require(file.name, *([] if others else [CONFIG_FILE]))
    own.write_tensors(file.name, written, {"format": "pt"})
    if not others:  # elsewhere the config says the same already
        own.write_text(CONFIG_FILE, "".join(f"{k}: {json.dumps(v)}\n" for k, v in config.items()))
    return file


def read(path: Path, sites: Sites | None) -> FeatureDictionary:
    """The transcoder in the file `path`, or in a folder with one layer or across all layers.

    Raises:
        CorruptFileError: a file is absent, truncated, or not in this format.
        InputError: the folder holds several layers, or nothing of ours computes the same.
    """
    layers = [path] if path.suffix == ".safetensors" else _layers(path)
    if not layers and (path / CONFIG_FILE).is_file():
        config = _read_yaml(path / CONFIG_FILE)
        if config.get("model_kind") == circuit_tracer_clt.MODEL_KIND:
            return circuit_tracer_clt.read(path, config, sites)
    if len(layers) != 1:
        names = ", ".join(layer.name for layer in layers) or "none"
        raise InputError(f"{path}: required one layer's file; it has {names}: give one by its path")
    [layer_path] = layers
    config_path = layer_path.parent / CONFIG_FILE
    config = _read_yaml(config_path)
    if config.get("model_kind") != "transcoder_set":
        raise InputError(
            f"{config_path}: required model_kind 'transcoder_set', got "
            f"{config.get('model_kind')!r}; a {circuit_tracer_clt.MODEL_KIND} is read by its folder"
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
        source, target = config.get("feature_input_hook"), config.get("feature_output_hook")
        sites = sites_named(block + (source or "x"), block + (target or "y"), (d, d))
    provenance = Provenance(model=config.get("model_name", ""), versions={})
    return built(weights, require_widths(sites, (d, d), path), provenance, file.dtype)


def _layers(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("layer_*.safetensors") if _LAYER_FILE.fullmatch(p.name))


def _rule(
    file: TensorFile, config: dict[str, str], n_features: int, path: Path
) -> tuple[Rule, dict[str, Tensor]]:
    """The rule of the set, and its parameters in this layer."""
    if THRESHOLD in file:
        return JumpReLU(), {"threshold": file.take(THRESHOLD, n_features)}
    # Its own writer leaves a tensor k, which its reader refuses.
    k = str(int(file.take("k"))) if "k" in file else config.get("k", "")
    if config.get("activation") != "topk" and not k:
        return ReLU(), {}
    if not k.isdecimal():
        raise CorruptFileError(f"{path}: the entry 'k' must be a whole number, got {k!r}")
    return TopK(int(k)), {}


def _read_yaml(path: Path) -> dict[str, str]:
    """The entries `name: value` of a YAML file, as text; lists and what is nested are passed over.

    Raises:
        CorruptFileError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: cannot be read ({error})") from error
    entries = filter(None, map(_ENTRY.fullmatch, lines))
    return {found[1]: _scalar(found[2] or "") for found in entries}


def _scalar(text: str) -> str:
    """The value of a YAML scalar, without quotes or a trailing comment."""
    if text[:1] in ("'", '"'):
        end = text.rfind(text[0])
        if text[0] == '"':
            try:
                return str(json.loads(text[: end + 1]))
            except json.JSONDecodeError:
                pass
        return text[1:end]
    return re.sub(r"\s+#.*", "", text)
