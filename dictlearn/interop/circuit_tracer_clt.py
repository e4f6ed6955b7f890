"""circuit-tracer's cross-layer transcoders: for layer i, `W_enc_{i}` and `W_dec_{i}.safetensors`.

`W_enc_{i}` is [feature, d]; `W_dec_{i}` is [feature, n_layers - i, d], the outputs of layer i and
of all later ones. `config.yaml` names hooks within a block, so that layers run from 0 to the last.
"""

import re
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.cross_layer_transcoder import (
    CrossLayerTranscoder,
    CrossLayerTranscoderConfig,
)
from dictlearn.interop.circuit_tracer_config import (
    CONFIG_FILE,
    CROSS_LAYER,
    HOOK,
    TracerConfig,
    require_kind,
)
from dictlearn.interop.files import EXPORT, TensorFile, cast, require_widths

_FILE = re.compile(r"W_(enc|dec)_(\d+)\.safetensors")


def write(dictionary: CrossLayerTranscoder, path: Path) -> Path:
    """Write `dictionary` to the folder `path`, with means and scales folded into the weights.

    Raises:
        InputError: its layers are not those of a whole model from 0 on, or differ in width or in
            the name of a hook; or a set of transcoders or files that no export wrote are in the
            way.
    """
    sites = dictionary.sites
    source, target = (_name_in_block(site) for site in (sites.source, sites.target))
    d = sites.target.widths[0]
    if not source or not target or {*sites.source.widths, *sites.target.widths} != {d}:
        raise InputError(
            "circuit-tracer holds cross-layer transcoders of one width between hooks "
            f"blocks.LAYER.NAME of all layers from 0 on; got {sites}"
        )
    n_layers, n_features = dictionary.n_layers, dictionary.n_features // dictionary.n_layers
    by_layer = rearrange(
        dictionary.atoms.detach().double(), "(a f) (b d) -> a f b d", a=n_layers, b=n_layers
    )
    biases = dictionary.bias.detach().double().split(d)
    readers, offsets = _readers(dictionary)
    files = {}
    for i, (W_enc, b_enc) in enumerate(zip(readers, offsets, strict=True)):
        encoder = {f"W_enc_{i}": W_enc, f"b_enc_{i}": b_enc, f"b_dec_{i}": biases[i]}
        files[f"W_enc_{i}.safetensors"] = cast(encoder, dictionary)
        files[f"W_dec_{i}.safetensors"] = cast({f"W_dec_{i}": by_layer[i, :, i:]}, dictionary)
    config = TracerConfig(
        CROSS_LAYER,
        source,
        target,
        model_name=dictionary.provenance.model,
        sizes={"n_layers": n_layers, "d_transcoder": n_features},
    )
    own = OwnFiles.of(path, EXPORT, sum(t.nbytes for file in files.values() for t in file.values()))
    require_kind(own.path, CROSS_LAYER)
    # Of an earlier export with more layers, which would be taken for layers of this one.
    stale = [p.name for p in own.path.iterdir() if _FILE.fullmatch(p.name) and p.name not in files]
    own.require(*files, CONFIG_FILE, *stale)
    own.remove(CONFIG_FILE, *stale)
    for name, tensors in files.items():
        own.write_tensors(name, tensors, {"format": "pt"})
    config.write(own)
    return own.path


def read(folder: Path, config: TracerConfig, sites: Sites | None) -> CrossLayerTranscoder:
    """The cross-layer transcoder in `folder`, whose `config.yaml` holds `config`.

    Raises:
        CorruptFileError: a file is absent, truncated, or not in this format.
        InputError: it has learned thresholds or a skip, which the kind here does not, or other
            widths than `sites`.
    """
    if config.activation not in (None, "relu") or config.k:
        raise InputError(
            f"{folder}: its features have the activation {config.activation!r}, and {CROSS_LAYER} "
            "here has ReLU"
        )
    found = [m for p in folder.iterdir() if (m := _FILE.fullmatch(p.name))]
    numbers = sorted(int(m[2]) for m in found if m[1] == "enc")
    n_layers = len(numbers)
    if numbers != list(range(n_layers)) or not numbers:
        raise CorruptFileError(
            f"{folder}: required W_enc_0.safetensors and so on without a gap, found {numbers}"
        )
    encoders = [TensorFile(folder / f"W_enc_{i}.safetensors") for i in numbers]
    if "threshold_0" in encoders[0]:
        raise InputError(
            f"{folder}: its features have thresholds (JumpReLU), and {CROSS_LAYER} here has ReLU"
        )
    n_features, d = encoders[0].shape("W_enc_0")
    for name, size in {"n_layers": n_layers, "d_transcoder": n_features}.items():
        if config.sizes.get(name, size) != size:
            raise CorruptFileError(
                f"{folder}: {CONFIG_FILE} has {name} = {config.sizes[name]}, and the files {size}"
            )
    if sites is None:
        names = (config.feature_input_hook, config.feature_output_hook)
        sites = Sites(*(Site([f"blocks.{i}.{n}" for i in numbers], [d] * n_layers) for n in names))
    require_widths(sites, (n_layers * d, n_layers * d), folder)
    dictionary = CrossLayerTranscoderConfig(n_features=n_features).build(sites)
    dictionary.to(encoders[0].dtype).eval()
    dictionary.provenance = Provenance(model=config.model_name, versions={})
    offsets, biases = [], []
    with torch.no_grad():
        for i, file in enumerate(encoders):
            dictionary.W_enc[i].copy_(file.take(f"W_enc_{i}", n_features, d))
            offsets.append(file.take(f"b_enc_{i}", n_features))
            biases.append(file.take(f"b_dec_{i}", d))
            file.finish()
            decoder = TensorFile(folder / f"W_dec_{i}.safetensors")
            written = decoder.take(f"W_dec_{i}", n_features, n_layers - i, d)
            dictionary.W_dec[i].copy_(rearrange(written, "f layer d -> f (layer d)"))
            decoder.finish()
        dictionary.b_enc.copy_(torch.cat(offsets))
        dictionary.b_dec.copy_(torch.cat(biases))
    return dictionary


def _name_in_block(site: Site) -> str | None:
    """The common name of a site's hooks `blocks.0.NAME`, `blocks.1.NAME` and so on."""
    found = [HOOK.fullmatch(hook) for hook in site.hooks]
    names = {match[2] for match in found if match}
    layers = [int(match[1]) for match in found if match]
    return names.pop() if len(names) == 1 and layers == list(range(len(found))) else None


def _readers(
    dictionary: CrossLayerTranscoder,
) -> tuple[list[Float[Tensor, "feature d"]], list[Float[Tensor, " feature"]]]:
    """Weights and biases of each layer's encoder, on raw activations."""
    split = dictionary.sites.source.split
    scale = dictionary.x_scale.double().expand(dictionary.sites.source.d)
    n_features = dictionary.n_features // dictionary.n_layers
    parts = (dictionary.W_enc, split(scale), split(dictionary.x_mean.double()))
    biases = dictionary.b_enc.detach().double().split(n_features)
    readers = [W.detach().double() / own for W, own in zip(*parts[:2], strict=True)]
    offsets = [b - W @ m for b, W, m in zip(biases, readers, parts[2], strict=True)]
    return readers, offsets
