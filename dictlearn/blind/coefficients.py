"""Coefficients of features on a text, read once, batch by batch."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.stream.activations import ActivationStream
from dictlearn.lm.forward import default_batch_size
from dictlearn.lm.hooks import LanguageModel


def firing_counts(
    model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary], tokens: Tokens
) -> dict[str, Int[Tensor, " feature"]]:
    """The number of ordinary tokens at which each feature has a positive coefficient."""
    counts = {name: torch.zeros(d.n_features).long() for name, d in dictionaries.items()}
    for batch in _encoded(model, dictionaries, tokens):
        for name, acts in batch.items():
            counts[name] += acts.where(acts.values > 0).firing_counts().cpu()
    return counts


def coefficients(
    model: LanguageModel, dictionary: FeatureDictionary, tokens: Tokens, features: Sequence[int]
) -> Float[Tensor, "b pos m"]:
    """The coefficients of some features at every token, 0 at special tokens, in float64."""
    found = torch.zeros(*tokens.ids.shape, len(features), dtype=torch.float64)
    chosen = torch.tensor(features, device=dictionary.x_mean.device)
    parts = [
        batch["own"].columns(chosen).cpu().double()
        for batch in _encoded(model, {"own": dictionary}, tokens)
    ]
    found[tokens.ordinary] = torch.cat(parts)
    return found


def _encoded(
    model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary], tokens: Tokens
) -> Iterator[dict[str, SparseActs]]:
    """The coefficients at the ordinary tokens of a batch of sequences after the other, by name."""
    if not tokens.n_tokens:
        raise InputError("required at least 1 token of text that is not special, got none")
    hooks = [hook for d in dictionaries.values() for hook in d.sites.source.hooks]
    size = default_batch_size(model, tokens.ids.shape[1])
    stream = ActivationStream(model, tokens.ids, tokens.ordinary, hooks, size)
    with stream.batches() as batches:
        for batch in batches:
            yield {name: batch.encode(d) for name, d in dictionaries.items()}


def peaks(values: Float[Tensor, "b pos"], n: int) -> list[tuple[int, int]]:
    """Sequence and position of the largest values, one of each sequence, that are positive."""
    largest, positions = values.max(dim=1)
    order = largest.argsort(descending=True, stable=True)[:n]
    return [(int(i), int(positions[i])) for i in order if largest[i] > 0]
