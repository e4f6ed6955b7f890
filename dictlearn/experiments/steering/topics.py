"""Topics of stories, the features that go with them, and the direction in which they lie."""

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.interventions.inside import inside
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel

TOPICS: Mapping[str, str] = {
    "princess": r"prince|crown|\bking\b|castle",
    "dragon": r"dragon",
    "dog": r"\bdog|puppy",
    "bird": r"\bbird",
    "flower": r"flower",
    "cake": r"\bcake|cookie|candy",
}
"""A regular expression for each topic, on lower-cased text."""
PROMPTS = ("", "Once upon a time,", "Once there was a", "A long time ago,")
"""The prompts of the published protocol."""


def has_topic(texts: Sequence[str], topic: str) -> Bool[Tensor, " text"]:
    """Whether each text mentions the topic."""
    pattern = re.compile(TOPICS[topic])
    return torch.tensor([bool(pattern.search(text.lower())) for text in texts])


@torch.no_grad()
def activity(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    ids: Int[Tensor, "block pos"],
    *,
    keep_error: bool,
) -> dict[str, Float[Tensor, "block feature"]]:
    """The fraction of the tokens of each block on which each feature is active."""
    found: dict[str, list[Tensor]] = {name: [] for name in dictionaries}
    with inside(model, dictionaries, keep_error=keep_error) as running:
        for part in ids.split(16):
            model(part)
            for name in dictionaries:
                found[name].append((running[name].dense() != 0).float().mean(dim=1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def standardized_difference(
    rows: Float[Tensor, "block feature"], label: Bool[Tensor, " block"]
) -> Float[Tensor, " feature"]:
    """The mean over labelled blocks minus that over the others, in standard errors."""
    a, b = rows[label], rows[~label]
    error = a.var(dim=0) / max(len(a), 1) + b.var(dim=0) / max(len(b), 1)
    return (a.mean(dim=0) - b.mean(dim=0)) / (error + 1e-9).sqrt()


def topic_codes(
    rows: Mapping[str, Float[Tensor, "block feature"]],
    dictionaries: Mapping[str, FeatureDictionary],
    label: Bool[Tensor, " block"],
    n: int,
) -> dict[str, list[int]]:
    """The `n` codes whose activity in labelled blocks differs most, at most one for each group.

    By dictionary. They are the strongest by the data alone: no code is picked or dropped by hand.
    """
    best: list[tuple[float, str, int]] = []
    for name, dictionary in dictionaries.items():
        n_groups = dictionary.traits.n_groups
        by_group = standardized_difference(rows[name], label).view(n_groups, -1).max(dim=1)
        size = dictionary.n_features // n_groups
        best += [
            (float(value), name, group * size + int(code))
            for group, (value, code) in enumerate(
                zip(by_group.values, by_group.indices, strict=True)
            )
        ]
    chosen: dict[str, list[int]] = {}
    for _, name, feature in sorted(best, reverse=True)[:n]:
        chosen.setdefault(name, []).append(feature)
    return chosen


@torch.no_grad()
def mean_activations(
    model: LanguageModel, hook: str, ids: Int[Tensor, "block pos"]
) -> tuple[Float[Tensor, "block d"], float]:
    """The mean activation of each block at a hook, and the mean norm of an activation there."""
    means, norms = [], []
    with reading(model, [hook]) as read:
        for part in ids.split(16):
            rows = read(part)[hook][:, 1:]
            means.append(rows.mean(dim=1))
            norms.append(rows.norm(dim=2).mean(dim=1))
    return torch.cat(means), float(torch.cat(norms).mean())
