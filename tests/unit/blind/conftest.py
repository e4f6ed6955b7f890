"""A model without context, and a feature of it that is active at one token of the vocabulary."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.lm.forward import activations_at
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites
from dictlearn.text.tokens import load_tokens

WORD = ","
PLANTED, OTHER = 3, 5


@dataclass(frozen=True)
class Planted:
    """The model, its dictionary, and two parts of a text."""

    model: Any
    dictionaries: dict[str, FeatureDictionary]
    tokens: Tokens
    held_out: Tokens
    token: int


@pytest.fixture(scope="session")
def planted() -> Planted:
    """Without positions and attention in layer 0, what its MLP reads is a function of the token.

    Feature `PLANTED` is active at the token `WORD` alone, and `OTHER` at another one alone.
    """
    model = load_model("builtin:stories", "cpu", torch.float64)
    for name, parameter in model.named_parameters():
        if name.startswith("pos.") or (name.startswith("layers.0.") and ".o." in name):
            parameter.data.zero_()
    sites = mlp_sites(model, 0)
    own = TranscoderConfig(n_features=8).build(sites).double().requires_grad_(False)
    own.W_enc.zero_()
    own.b_enc.fill_(-1.0)
    n = len(model.tokenizer)
    at = activations_at(model, torch.arange(n)[:, None], [sites.source.hook])
    x = at[sites.source.hook][:, 0]
    ids = {feature: model.tokenizer.encode(text, add_special_tokens=False) for feature, text in
           ((PLANTED, WORD), (OTHER, " the"))}  # fmt: skip
    for feature, (token,) in ids.items():
        reader = torch.linalg.solve(x.T.cov() + 1e-3 * torch.eye(x.shape[1]), x[token] - x.mean(0))
        scores = x @ reader
        first, second = scores.topk(2).values
        assert scores.argmax() == token
        own.W_enc[:, feature] = reader / (first - second)
        own.b_enc[feature] = -(first + second) / (first - second) / 2
    texts = {
        split: load_tokens("builtin:stories", model, split, 6_000, context=48)
        for split in ("train", "held_out")
    }
    return Planted(model, {"mlp0": own}, texts["train"], texts["held_out"], ids[PLANTED][0])


@pytest.fixture(scope="session")
def pair(planted: Planted) -> dict[str, FeatureDictionary]:
    """Untrained transcoders of two layers, of which features of the first make the second's."""
    first = TopKTranscoderConfig(n_features=16, k=4).build(mlp_sites(planted.model, 0))
    second = TranscoderConfig(n_features=4).build(mlp_sites(planted.model, 1))
    return {"mlp0": first.double(), "mlp1": second.double()}
