"""Text around tokens at which a feature is active, shown after a guess."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.circuits.blind.coefficients import peaks
from dictlearn.core.tokens import Tokens
from dictlearn.records.features import Context
from dictlearn.text.concepts import token_texts

_BEFORE, _AFTER, _LEAD = 12, 6, 8
"""Tokens shown before and after, and read before these: the first of a text lacks its space."""


@dataclass(frozen=True)
class Revealed:
    """The text around a token at which the feature is active."""

    context: Context
    matched: bool
    """Whether the pattern names this token."""


def top_contexts(
    values: Float[Tensor, "b pos"],
    labels: Bool[Tensor, "b pos"],
    tokens: Tokens,
    tokenizer: Any,
    n: int,
) -> list[Revealed]:
    """The text around the largest coefficients, one of each sequence."""
    return [_revealed(place, values, labels, tokens, tokenizer) for place in peaks(values, n)]


def random_contexts(
    values: Float[Tensor, "b pos"],
    labels: Bool[Tensor, "b pos"],
    tokens: Tokens,
    tokenizer: Any,
    n: int,
    seed: int,
) -> list[Revealed]:
    """The text around tokens drawn from all at which the feature is active, weak ones as well."""
    active = (values > 0).nonzero().tolist()
    order = torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))[:n]
    places = [(active[i][0], active[i][1]) for i in order.tolist()]
    return [_revealed(place, values, labels, tokens, tokenizer) for place in places]


def _revealed(
    place: tuple[int, int],
    values: Float[Tensor, "b pos"],
    labels: Bool[Tensor, "b pos"],
    tokens: Tokens,
    tokenizer: Any,
) -> Revealed:
    sequence, position = place
    ordinary = tokens.ordinary[sequence].tolist()
    first, end = position, position + 1
    while first > max(0, position - _BEFORE) and ordinary[first - 1]:
        first -= 1
    lead = first
    while lead > max(0, first - _LEAD) and ordinary[lead - 1]:
        lead -= 1
    while end < min(len(ordinary), position + 1 + _AFTER) and ordinary[end]:
        end += 1
    texts = token_texts(tokens.ids[sequence, lead:end].tolist(), tokenizer)[first - lead :]
    activations = [float(f"{value:.6g}") for value in values[sequence, first:end].tolist()]
    context = Context(texts, activations, position - first, sequence)
    return Revealed(context, bool(labels[place]))
