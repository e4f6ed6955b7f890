"""Text around tokens at which a feature is active, shown after a guess."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.blind.coefficients import peaks
from dictlearn.core.numbers import significant
from dictlearn.core.tokens import Tokens
from dictlearn.records.features import Context
from dictlearn.text.concepts import text_around

_WINDOW = 12, 6
"""Tokens shown before and after."""


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
    ids, ordinary = tokens.ids[sequence].tolist(), tokens.ordinary[sequence].tolist()
    first, texts = text_around(ids, ordinary, position, _WINDOW, tokenizer)
    some = values[sequence, first : first + len(texts)].tolist()
    context = Context(texts, [significant(value) for value in some], position - first, sequence)
    return Revealed(context, bool(labels[place]))
