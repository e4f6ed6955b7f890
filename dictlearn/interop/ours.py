"""Our kinds as linear weights, and linear weights as our kinds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, CorruptFileError, InputError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopK, BatchTopKSAEConfig
from dictlearn.dictionaries.batchtopk_transcoder import BatchTopKTranscoderConfig
from dictlearn.dictionaries.gated_sae import Gated, GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLU, JumpReLUSAEConfig
from dictlearn.dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from dictlearn.dictionaries.linear import LinearConfig, LinearDictionary, Rule
from dictlearn.dictionaries.matryoshka_sae import MatryoshkaSAEConfig
from dictlearn.dictionaries.sae import ReLU, SAEConfig
from dictlearn.dictionaries.topk_sae import TopK, TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.interop.weights import LinearWeights, gates

KINDS: Mapping[type[Rule], tuple[type[LinearConfig], ...]] = {
    ReLU: (SAEConfig, TranscoderConfig),
    TopK: (TopKSAEConfig, TopKTranscoderConfig),
    BatchTopK: (BatchTopKSAEConfig, BatchTopKTranscoderConfig),
    JumpReLU: (JumpReLUSAEConfig, JumpReLUTranscoderConfig),
    Gated: (GatedSAEConfig,),
}
"""The kinds with each rule that other libraries know: autoencoder and, if there is one, transcoder.
Types are looked up as they are: a subclass may encode in a way of its own."""


def _double(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.detach().to("cpu", torch.float64)


def folded(dictionary: FeatureDictionary, library: str) -> LinearWeights:
    """The weights of `dictionary` on raw activations: its standardization is folded into them.

    The scale of the source goes into `W_enc` and that of the target into `W_dec`, so that
    coefficients are those of `encode` and rows of `W_dec` are `atoms`. The means go into `centre`
    and `b_dec`; what a skip makes of the source's mean, being constant, into `b_dec` as well.

    Raises:
        InputError: the kind is not a linear encoder with a rule that other libraries know.
    """
    if type(dictionary) is not LinearDictionary or type(dictionary.rule) not in KINDS:
        kind = dictionary.kind
        raise InputError(
            f"{library} files hold a linear encoder, a decoder, and ReLU, top-k, thresholds or "
            f"gates between them; {kind!r} is none of these, so it cannot be expressed there: "
            "save it without format="
        )
    if len(dictionary.sites.hooks) > 1 + (not dictionary.sites.is_autoencoder):
        raise InputError(
            f"{library} files hold dictionaries of one hook, or from one to another, got "
            f"{dictionary.sites}: save it without format="
        )
    config = dictionary.config
    x_mean, x_scale, y_mean, y_scale, W_enc, b_enc, W_dec, b_dec = (
        _double(getattr(dictionary, name))
        for name in (
            "x_mean", "x_scale", "y_mean", "y_scale", "W_enc", "b_enc", "W_dec", "b_dec"
        )
    )  # fmt: skip
    centre = x_mean + x_scale * b_dec if dictionary.centred else x_mean
    bias, W_skip = y_scale * b_dec + y_mean, None
    if dictionary.W_skip is not None:
        W_skip = _double(dictionary.W_skip) * y_scale / x_scale
        bias = bias - x_mean @ W_skip
    return LinearWeights(
        W_enc=W_enc / x_scale,
        b_enc=b_enc,
        W_dec=y_scale * W_dec,
        b_dec=bias,
        centre=centre,
        rule=dictionary.rule,
        learned=_learned(dictionary),
        W_skip=W_skip,
        prefixes=config.widths if isinstance(config, MatryoshkaSAEConfig) else (),
    )


def built(
    weights: LinearWeights, sites: Sites, provenance: Provenance, dtype: torch.dtype, path: Path
) -> FeatureDictionary:
    """The dictionary of ours that computes what `weights`, from `path`, do on raw activations.

    It is an autoencoder where source and target are one site and there is no skip, and a
    transcoder elsewhere. Its standardization is the identity.

    Raises:
        InputError: no kind of ours has this rule there.
        CorruptFileError: a setting is out of range.
    """
    has_skip = weights.W_skip is not None
    kinds = KINDS[type(weights.rule)]
    is_autoencoder = sites.is_autoencoder and not has_skip
    if not is_autoencoder and len(kinds) == 1:
        raise InputError(
            f"{path}: at {sites}, the file holds a transcoder with gates, and no kind can be one"
        )
    fields: dict[str, Any] = {"n_features": len(weights.W_dec)}
    if isinstance(weights.rule, TopK | BatchTopK):
        fields["k"] = weights.rule.k
    if not is_autoencoder:
        fields["linear_skip"] = has_skip
    kind = kinds[0 if is_autoencoder else 1]
    if weights.prefixes and kind is BatchTopKSAEConfig:
        kind = MatryoshkaSAEConfig
        fields["prefixes"] = tuple(width / len(weights.W_dec) for width in weights.prefixes)
    try:
        config = kind(**fields)
    except ConfigError as error:
        raise CorruptFileError(f"{path}: holds a setting out of range ({error})") from error
    dictionary = config.build(sites).to(dtype).eval()
    weights = weights.centred_at_b_dec() if is_autoencoder else weights.uncentred()
    values = {name: getattr(weights, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if weights.W_skip is not None:
        values["W_skip"] = weights.W_skip
    with torch.no_grad():
        for name, value in (values | _rule_values(weights, dtype)).items():
            getattr(dictionary, name).copy_(value)
    dictionary.provenance = provenance
    return dictionary


def _learned(dictionary: LinearDictionary) -> dict[str, Tensor]:
    """The parameters of the rule, in the form of `LinearWeights.learned`."""
    match dictionary.rule:
        case BatchTopK():
            return {"threshold": _double(dictionary.get_buffer("threshold"))}
        case JumpReLU():
            # Each in the dictionary's own precision: coefficients are compared with that.
            return {"threshold": _double(dictionary.get_parameter("log_threshold").exp())}
        case Gated():
            r_mag, b_mag = map(dictionary.get_parameter, ("r_mag", "b_mag"))
            return gates(*map(_double, (r_mag, b_mag, dictionary.b_enc)))
    return {}


def _rule_values(weights: LinearWeights, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters beside encoder and decoder, `weights` being centred as the kind is."""
    match weights.rule:
        case BatchTopK():
            # As after a thousand batches: further training moves the threshold, but not at once.
            n_observed = torch.tensor(1000.0, dtype=dtype)
            return {"threshold": weights.learned["threshold"], "_n_observed": n_observed}
        case JumpReLU():
            # A threshold below zero does what zero does; of zero there is no logarithm.
            thresholds = weights.learned["threshold"].clamp_min(torch.finfo(dtype).tiny)
            return {"log_threshold": thresholds.log()}
        case Gated():
            return {"r_mag": weights.learned["r_mag"], "b_mag": weights.b_mag}
    return {}
