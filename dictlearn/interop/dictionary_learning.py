"""dictionary_learning: `ae.pt`, a state dict, and `config.json`, in a folder for each trainer.

`ae.pt` is a pickle. It is read with `weights_only=True`, which admits tensors and nothing that
could run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, nearest
from dictlearn.core.files import json_text, read_json
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopK
from dictlearn.dictionaries.gated_sae import Gated
from dictlearn.dictionaries.jumprelu_sae import JumpReLU
from dictlearn.dictionaries.sae import ReLU
from dictlearn.dictionaries.topk_sae import TopK
from dictlearn.interop.dictionary_learning_classes import (
    CLASSES,
    CONFIG_FILE,
    UNSET,
    Layout,
    Trainer,
)
from dictlearn.interop.files import (
    EXPORT,
    OWN_KEY,
    TensorFile,
    cast,
    entry,
    own_entry,
    own_provenance,
    own_sites,
    require_widths,
    sites_named,
)
from dictlearn.interop.ours import built, folded
from dictlearn.interop.weights import LinearWeights

LIBRARY = "dictionary_learning"
WEIGHTS_FILE = "ae.pt"
HOOKS = {"out": ("", ""), "in": (".in", ".in"), "in_and_out": (".in", ".out")}
"""Names of source and target after a module's, by what of the module was read."""


def write(dictionary: FeatureDictionary, path: Path) -> Path:
    """Write `dictionary` for `dictionary_learning.utils.load_dictionary`; the folder.

    ReLU dictionaries become an `AutoEncoderNew`: loading an `AutoEncoder` gives its decoder unit
    norm, and so its coefficients other units.

    Raises:
        InputError: there is a linear skip, or source and target differ in width.
    """
    weights, sites = folded(dictionary, LIBRARY), dictionary.sites
    if weights.W_skip is not None or sites.source.d != sites.target.d:
        raise InputError(
            f"{LIBRARY} has no linear skip, and one width on both sides; got widths "
            f"{sites.source.d} and {sites.target.d}"
            + (" and a skip" if weights.W_skip is not None else "")
            + ": use another format, or none"
        )
    dict_class, tensors = _state(weights)
    trainer: dict[str, Any] = {
        "dict_class": dict_class,
        "activation_dim": sites.source.d,
        "dict_size": dictionary.n_features,
        "lm_name": dictionary.provenance.model,
        "submodule_name": sites.target.hook,
        "seed": dictionary.provenance.seed,
    }
    if isinstance(weights.rule, TopK | BatchTopK):
        trainer["k"] = weights.rule.k
    io = "out" if sites.is_autoencoder else "in_and_out"
    config = {
        "trainer": trainer,
        "buffer": {"d_submodule": sites.source.d, "io": io},
        OWN_KEY: own_entry(dictionary),
    }
    written = cast(tensors, dictionary)
    if "k" in trainer:
        written["k"] = torch.tensor(trainer["k"], dtype=torch.int32)
    if weights.prefixes:
        ends = torch.tensor((0, *weights.prefixes, dictionary.n_features))
        written["group_sizes"] = ends.diff()
    own = OwnFiles.of(path, EXPORT, sum(t.nbytes for t in written.values()))
    own.require(WEIGHTS_FILE, CONFIG_FILE)
    own.remove(CONFIG_FILE)
    with own.writing(own.path / WEIGHTS_FILE) as part:
        torch.save(written, part)
    own.write_text(CONFIG_FILE, json_text(config))
    return own.path


def _state(weights: LinearWeights) -> tuple[str, dict[str, Tensor]]:
    """The class for the rule, and its tensors."""
    centred, uncentred = weights.centred_at_b_dec(), weights.uncentred()
    linear = {"encoder.weight": weights.W_enc.T, "decoder.weight": weights.W_dec.T}
    match weights.rule:
        case ReLU():
            biases = {"encoder.bias": uncentred.b_enc, "decoder.bias": weights.b_dec}
            return "AutoEncoderNew", linear | biases
        case Gated():
            return "GatedAutoEncoder", linear | {
                "decoder_bias": weights.b_dec,
                "gate_bias": centred.b_enc,
                "r_mag": centred.learned["r_mag"],
                "mag_bias": centred.b_mag,
            }
        case JumpReLU():
            return "JumpReluAutoEncoder", {
                "W_enc": weights.W_enc,
                "b_enc": uncentred.b_enc,
                "W_dec": weights.W_dec,
                "b_dec": weights.b_dec,
                "threshold": weights.learned["threshold"],
            }
        case BatchTopK() if weights.prefixes:
            return "MatryoshkaBatchTopKSAE", {
                "W_enc": weights.W_enc,
                "b_enc": centred.b_enc,
                "W_dec": weights.W_dec,
                "b_dec": weights.b_dec,
                "threshold": weights.learned["threshold"],
            }
        case TopK() | BatchTopK() as rule:
            dict_class = "BatchTopKSAE" if isinstance(rule, BatchTopK) else "AutoEncoderTopK"
            return dict_class, linear | {
                "encoder.bias": centred.b_enc,
                "b_dec": weights.b_dec,
                "threshold": weights.learned.get("threshold", torch.tensor(UNSET)),
            }
    raise AssertionError(f"no class for {weights.rule}")


def read(path: Path, sites: Sites | None) -> FeatureDictionary:
    """The dictionary in the folder `path`, or in a `.pt` file below a folder with its config.

    `sites` override the submodule that the config names; one trained from its input to its output
    gets the hooks `NAME.in` and `NAME.out`. As in `load_dictionary`, the decoder of an
    `AutoEncoder` gets unit norm. Settings of training are not read, there or here.

    Raises:
        CorruptFileError: a file is absent, damaged, holds more than tensors, or does not fit.
        InputError: no kind here computes the same, or a threshold was never set.
    """
    weights_path = path if path.suffix == ".pt" else path / WEIGHTS_FILE
    folders = (weights_path.parent, weights_path.parent.parent)  # checkpoints/ae_100.pt
    found = [folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).exists()]
    config_path = found[0] if found else weights_path.parent / CONFIG_FILE
    config = read_json(config_path)
    trainer = entry(config, "trainer", dict, config_path)
    dict_class = entry(trainer, "dict_class", str, config_path)
    if dict_class not in CLASSES:
        raise InputError(
            f"{config_path}: no kind of ours is a {dict_class!r}; {nearest(dict_class, CLASSES)}"
        )
    file = TensorFile(weights_path, _unpickled(weights_path))
    weights = _weights(file, CLASSES[dict_class], trainer)
    widths = (weights.W_enc.shape[0], weights.W_dec.shape[1])
    buffer = entry(config, "buffer", dict, config_path) if config.get("buffer") else {}
    layer = trainer.get("layer")
    name = trainer.get("submodule_name") or ("x" if layer is None else f"layers.{layer}")
    io = entry({"io": "out"} | buffer, "io", str, config_path)
    if io not in HOOKS:
        raise CorruptFileError(
            f"{config_path}: 'io' must be one of {', '.join(HOOKS)}, got {io!r:.80}"
        )
    hooks = (name + HOOKS[io][0], name + HOOKS[io][1])
    sites = sites or own_sites(config, config_path) or sites_named(*hooks, widths)
    origin = Provenance(model=trainer.get("lm_name") or "", seed=trainer.get("seed"), versions={})
    sites = require_widths(sites, widths, path)
    return built(weights, sites, own_provenance(config, origin, config_path), file.dtype, path)


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    """The tensors in a pickle, from which nothing else is taken."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an interpreter of pickles meets what no list of errors covers
        first_line = str(error).partition("\n")[0]
        raise CorruptFileError(
            f"{path}: cannot be read as a dictionary of tensors and nothing else ({first_line})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CorruptFileError(f"{path}: required a dictionary of tensors, got {type(state)}")
    return state


def _weights(file: TensorFile, layout: Layout, trainer: Trainer) -> LinearWeights:
    if "W_enc" in file:
        W_enc, W_dec = file.take("W_enc", None, None), file.take("W_dec", None, None)
    else:
        W_enc = file.take("encoder.weight", None, None).T
        W_dec = file.take("decoder.weight", None, None).T
    d, n_features = W_enc.shape
    if W_dec.shape != (n_features, d):
        raise CorruptFileError(
            f"{file.path}: an encoder from {d} to {n_features} and a decoder from "
            f"{W_dec.shape[0]} to {W_dec.shape[1]} do not fit"
        )
    b_enc, b_dec = file.take(layout.b_enc, n_features), file.take(layout.b_dec, d)
    rule, learned = layout.rule(file, trainer, b_enc)
    if layout.unit_norm:
        W_enc, b_enc, W_dec = _unit_norm(W_enc, b_enc, W_dec, file.path)
    ends = (
        file.take("group_sizes", None, whole=True).cumsum(0).tolist()
        if "group_sizes" in file
        else []
    )
    if ends and ends[-1] != n_features:
        raise CorruptFileError(
            f"{file.path}: its group_sizes add up to {ends[-1]:g}, and it has {n_features} features"
        )
    file.finish(ignored=("threshold",))
    centre = b_dec if layout.centred else torch.zeros_like(b_dec)
    return LinearWeights(
        W_enc, b_enc, W_dec, b_dec, centre, rule, learned, prefixes=tuple(map(int, ends[:-1]))
    )


def _unit_norm(
    W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, path: Path
) -> tuple[Tensor, Tensor, Tensor]:
    """The same function with a decoder of unit norm, as `AutoEncoder.from_pretrained` makes it."""
    norms = W_dec.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms)):
        return W_enc, b_enc, W_dec
    if not (norms > 0).all():
        raise CorruptFileError(
            f"{path}: required decoder directions that differ from 0, as {LIBRARY} does to give an "
            f"AutoEncoder unit norm; {int((norms == 0).sum())} do not"
        )
    return W_enc * norms, b_enc * norms, W_dec / norms.unsqueeze(1)
