"""sparsify: `cfg.json` and `sae.safetensors` in a folder that is named for its hook point.

Hook points are Hugging Face module names there, and are kept as they are: a dictionary that is to
be used with a model takes `sites=`.
"""

from pathlib import Path
from typing import Any

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.files import read_json
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.topk_sae import TopK
from dictlearn.interop.files import (
    OWN_KEY,
    TensorFile,
    cast,
    count,
    flag,
    own_entry,
    own_provenance,
    own_sites,
    require_known,
    require_widths,
    sites_named,
    write_folder,
)
from dictlearn.interop.ours import built, folded
from dictlearn.interop.weights import LinearWeights

LIBRARY = "sparsify"
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
_READ = (
    "activation", "d_in", "expansion_factor", "k", "num_latents", "skip_connection", "transcode"
)  # fmt: skip
_OF_TRAINING = ("multi_topk", "normalize_decoder")
"""A term of the loss, and a constraint on the decoder while it learns."""


def write(dictionary: FeatureDictionary, path: Path) -> Path:
    """Write `dictionary` for `sparsify.SparseCoder.load_from_disk`; the folder.

    Raises:
        InputError: it does not select by top-k, or source and target differ in width.
    """
    weights, sites = folded(dictionary, LIBRARY), dictionary.sites
    rule = weights.rule
    if not isinstance(rule, TopK) or sites.source.d != sites.target.d:
        kind = dictionary.kind
        raise InputError(
            f"{LIBRARY} holds top-k dictionaries between sites of one width; {kind!r} at widths "
            f"{sites.source.d} and {sites.target.d} is none: use another format, or none"
        )
    transcode = not sites.is_autoencoder
    weights = weights.uncentred() if transcode else weights.centred_at_b_dec()
    tensors = {
        "encoder.weight": weights.W_enc.T,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.W_dec,
        "b_dec": weights.b_dec,
    }
    if weights.W_skip is not None:
        tensors["W_skip"] = weights.W_skip.T
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": max(1, dictionary.n_features // sites.source.d),
        "normalize_decoder": False,  # rows are in raw activation units
        "num_latents": dictionary.n_features,
        "k": rule.k,
        "multi_topk": False,
        "skip_connection": weights.W_skip is not None,
        "transcode": transcode,
        "d_in": sites.source.d,
        OWN_KEY: own_entry(dictionary),
    }
    return write_folder(path, WEIGHTS_FILE, cast(tensors, dictionary), CONFIG_FILE, config)


def read(path: Path, sites: Sites | None) -> FeatureDictionary:
    """The dictionary in the folder `path`; `sites` override the hook point that names it.

    A transcoder of the module `NAME` gets the hooks `NAME.in` and `NAME.out`.

    Raises:
        CorruptFileError: a file is absent, truncated, or does not fit the other.
        InputError: it selects by something else than top-k, or has settings unknown here.
    """
    config_path = path / CONFIG_FILE
    config = read_json(config_path)
    if config.get("activation", "topk") != "topk":
        raise InputError(
            f"{config_path}: no kind of ours selects by {config['activation']!r}; required 'topk'"
        )
    require_known(config, (*_READ, *_OF_TRAINING), config_path)
    d_in, transcode = count(config, "d_in", config_path), flag(config, "transcode", config_path)
    if config.get("num_latents"):
        n_features = count(config, "num_latents", config_path)
    else:
        n_features = d_in * count(config, "expansion_factor", config_path)
    file = TensorFile(path / WEIGHTS_FILE)
    b_dec = file.take("b_dec", d_in)
    weights = LinearWeights(
        W_enc=file.take("encoder.weight", n_features, d_in).T,
        b_enc=file.take("encoder.bias", n_features),
        W_dec=file.take("W_dec", n_features, d_in),
        b_dec=b_dec,
        centre=torch.zeros_like(b_dec) if transcode else b_dec,
        rule=TopK(count(config, "k", config_path)),
        W_skip=(
            file.take("W_skip", d_in, d_in).T
            if flag(config, "skip_connection", config_path)
            else None
        ),
    )
    file.finish()
    folder = path.resolve()
    module = folder.parent.name if folder.name.startswith("seed") else folder.name
    hooks = (f"{module}.in", f"{module}.out") if transcode else (module, module)
    sites = sites or own_sites(config, config_path) or sites_named(*hooks, (d_in, d_in))
    sites = require_widths(sites, (d_in, d_in), path)
    provenance = own_provenance(config, Provenance(versions={}), config_path)
    return built(weights, sites, provenance, file.dtype, path)
