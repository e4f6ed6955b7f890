"""Our kinds as linear weights, and linear weights as our kinds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.config import DictionaryConfig
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAE, BatchTopKSAEConfig
from dictlearn.dictionaries.gated_sae import GatedSAE, GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from dictlearn.dictionaries.linear import LinearAutoencoder, LinearDictionary
from dictlearn.dictionaries.sae import SAE, SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAE, TopKSAEConfig
from dictlearn.dictionaries.topk_transcoder import (
    SkipTopKTranscoder,
    TopKTranscoder,
    TopKTranscoderConfig,
)
from dictlearn.dictionaries.transcoder import (
    LinearSkip,
    SkipTranscoder,
    Transcoder,
    TranscoderConfig,
)
from dictlearn.interop.weights import (
    Above,
    AboveShared,
    Gated,
    Largest,
    LinearWeights,
    Positive,
    Rule,
)


def _double(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return tensor.detach().to("cpu", torch.float64)


def _gated(dictionary: GatedSAE) -> Gated:
    parts = (dictionary.r_mag, dictionary.b_mag, dictionary.b_enc)
    return Gated.with_bias(*map(_double, parts))


RULES: Mapping[type[FeatureDictionary], Callable[[Any], Rule]] = {
    SAE: lambda d: Positive(),
    Transcoder: lambda d: Positive(),
    SkipTranscoder: lambda d: Positive(),
    TopKSAE: lambda d: Largest(d.k),
    TopKTranscoder: lambda d: Largest(d.k),
    SkipTopKTranscoder: lambda d: Largest(d.k),
    BatchTopKSAE: lambda d: AboveShared(d.k, float(d.threshold)),
    JumpReLUSAE: lambda d: Above(_double(d.log_threshold.exp())),
    GatedSAE: _gated,
}
"""How each kind's coefficients follow from its scores. A subclass may encode in a way of its own,
so types are looked up as they are."""


def folded(dictionary: FeatureDictionary, library: str) -> LinearWeights:
    """The weights of `dictionary` on raw activations: its standardization is folded into them.

    The scale of the source goes into `W_enc` and that of the target into `W_dec`, so that
    coefficients are those of `encode` and rows of `W_dec` are `atoms`. The means go into `centre`
    and `b_dec`; what a skip makes of the source's mean, being constant, into `b_dec` as well.

    Raises:
        InputError: the kind is not a linear encoder with a rule that other libraries know.
    """
    if type(dictionary) not in RULES:
        kind = dictionary.config.kind if dictionary.config else type(dictionary).__name__
        raise InputError(
            f"{library} files hold a linear encoder, a decoder, and ReLU, top-k, thresholds or "
            f"gates between them; {kind!r} is none of these, so it cannot be expressed there: "
            "save it without format="
        )
    assert isinstance(dictionary, LinearDictionary)
    x_mean, x_scale, y_mean, y_scale, W_enc, b_enc, W_dec, b_dec = (
        _double(getattr(dictionary, name))
        for name in (
            "x_mean", "x_scale", "y_mean", "y_scale", "W_enc", "b_enc", "W_dec", "b_dec"
        )
    )  # fmt: skip
    centre = x_mean
    if isinstance(dictionary, LinearAutoencoder):
        centre = x_mean + x_scale * b_dec
    bias, W_skip = y_scale * b_dec + y_mean, None
    if isinstance(dictionary, LinearSkip):
        W_skip = _double(dictionary.W_skip) * y_scale / x_scale
        bias = bias - x_mean @ W_skip
    return LinearWeights(
        W_enc=W_enc / x_scale,
        b_enc=b_enc,
        W_dec=y_scale * W_dec,
        b_dec=bias,
        centre=centre,
        rule=RULES[type(dictionary)](dictionary),
        W_skip=W_skip,
    )


def built(
    weights: LinearWeights, sites: Sites, provenance: Provenance, dtype: torch.dtype
) -> FeatureDictionary:
    """The dictionary of ours that computes what `weights` do, on raw activations at `sites`.

    It is an autoencoder where source and target are one site and there is no skip, and a
    transcoder elsewhere. Its standardization is the identity.

    Raises:
        InputError: no kind of ours has this rule there.
    """
    config = _config(weights, sites)
    dictionary = config.build(sites).to(dtype).eval()
    assert isinstance(dictionary, LinearDictionary)
    is_autoencoder = isinstance(dictionary, LinearAutoencoder)
    weights = weights.centred_at_b_dec() if is_autoencoder else weights.uncentred()
    values = {name: getattr(weights, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if weights.W_skip is not None:
        values["W_skip"] = weights.W_skip
    with torch.no_grad():
        for name, value in (values | _rule_values(weights, dtype)).items():
            getattr(dictionary, name).copy_(value)
    dictionary.provenance = provenance
    return dictionary


def _config(weights: LinearWeights, sites: Sites) -> DictionaryConfig:
    n_features, has_skip = len(weights.W_dec), weights.W_skip is not None
    is_autoencoder = sites.is_autoencoder and not has_skip
    match weights.rule:
        case Positive() if is_autoencoder:
            return SAEConfig(n_features=n_features)
        case Positive():
            return TranscoderConfig(n_features=n_features, linear_skip=has_skip)
        case Largest(k) if is_autoencoder:
            return TopKSAEConfig(n_features=n_features, k=k)
        case Largest(k):
            return TopKTranscoderConfig(n_features=n_features, k=k, linear_skip=has_skip)
        case AboveShared(k) if is_autoencoder:
            return BatchTopKSAEConfig(n_features=n_features, k=k)
        case Above() if is_autoencoder:
            return JumpReLUSAEConfig(n_features=n_features)
        case Gated() if is_autoencoder:
            return GatedSAEConfig(n_features=n_features)
    raise InputError(
        f"at {sites}: transcoders of ours use ReLU or top-k; the file holds one with "
        f"{'gates' if isinstance(weights.rule, Gated) else 'thresholds'}, and no kind can take it"
    )


def _rule_values(weights: LinearWeights, dtype: torch.dtype) -> dict[str, Tensor]:
    """The parameters beside encoder and decoder, `weights` being centred as the kind is."""
    match weights.rule:
        case Above(threshold):
            # A threshold below zero does what zero does; of zero there is no logarithm.
            return {"log_threshold": threshold.clamp_min(torch.finfo(dtype).tiny).log()}
        case AboveShared(_, threshold):
            return {"threshold": torch.tensor(threshold, dtype=torch.float64)}
        case Gated(r_mag) as rule:
            return {"r_mag": r_mag, "b_mag": rule.b_mag(weights.b_enc)}
    return {}
