"""Quantities of the greater-than study: difference by features kept, and feature × year maps."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.weights import de_embedding
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.experiments.greater_than.prompts import YearPrompts
from dictlearn.interventions.edit import ColumnEdit
from dictlearn.interventions.inside import inside
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.patching import patched
from dictlearn.lm.unembedding import logit_map

KEPT = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
"""Numbers of features kept; the published curve ends at 99."""


@dataclass(frozen=True, eq=False)
class _Fix(ColumnEdit):
    """Features have a coefficient each, whatever the input."""

    values: Float[Tensor, " m"]

    verb = "fix"

    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        return self.values.expand_as(old)


@torch.no_grad()
def last_acts(
    model: LanguageModel, dictionary: FeatureDictionary, prompts: YearPrompts
) -> Float[Tensor, "prompt feature"]:
    """The coefficients at the last token of each prompt, in the model with its own MLP."""
    with inside(model, dictionary, keep_error=True, allow_other_model=True) as running:
        model(prompts.ids)
    n, pos = prompts.ids.shape
    (found,) = running.values()
    return found.acts.select(torch.arange(n) * pos + pos - 1).to_dense()


def by_variance(acts: Float[Tensor, "prompt feature"]) -> Int[Tensor, " feature"]:
    """Features by the variance of their coefficients over prompts, the largest first."""
    return acts.double().var(dim=0).argsort(descending=True, stable=True)


def kept_curve(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    prompts: YearPrompts,
    order: Int[Tensor, " feature"],
    others: Float[Tensor, " feature"],
) -> list[float]:
    """The probability difference with the first features of `order` kept, for each of `KEPT`.

    The dictionary stands in the place of the MLP; the other features have their coefficient of
    `others` at the last token. The decoder's bias stays, as in the code of Dunefsky et al. 2024,
    where `others` is 0.
    """
    return [_difference(model, dictionary, prompts, order[n:], others) for n in KEPT]


def whole_difference(
    model: LanguageModel, dictionary: FeatureDictionary, prompts: YearPrompts
) -> float:
    """The probability difference with all features of the dictionary."""
    none = torch.arange(0)
    return _difference(model, dictionary, prompts, none, torch.zeros(dictionary.n_features))


def _difference(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    prompts: YearPrompts,
    fixed: Int[Tensor, " m"],
    others: Float[Tensor, " feature"],
) -> float:
    last = prompts.ids.shape[1] - 1
    edits = [_Fix(fixed.tolist(), others[fixed], positions=last)] if len(fixed) else []
    with inside(model, dictionary, edits=edits, allow_other_model=True):
        return prompts.difference(prompts.probabilities(model))


def removed_difference(model: LanguageModel, target: str, prompts: YearPrompts) -> float:
    """The probability difference if the MLP writes nothing at the last token."""

    def silent(y: Tensor, positions: Tensor) -> Tensor:
        return torch.where((positions == prompts.ids.shape[1] - 1).unsqueeze(2), 0.0, y)

    with patched(model, {target: silent}):
        return prompts.difference(prompts.probabilities(model))


def direct_effects(
    model: LanguageModel, atoms: Float[Tensor, "m d"], prompts: YearPrompts
) -> Float[Tensor, "m year"]:
    """The logit weights of features for each year, less their mean over years."""
    weights = logit_map(model).weights(atoms)[:, prompts.tokens]
    return weights - weights.mean(dim=1, keepdim=True)


@torch.no_grad()
def input_scores(
    model: LanguageModel,
    dictionary: FeatureDictionary,
    features: Int[Tensor, " m"],
    layer: int,
    prompts: YearPrompts,
) -> Float[Tensor, "m year"]:
    """De-embedding scores of years for features, summed over the heads of `layer` (`de_embedding`).

    It is what the heads would bring that look at the year's embedding alone, up to scales of norms.
    """
    through = [
        de_embedding(model, dictionary, features, heads=((layer, head),), allow_other_model=True)
        for head in range(model.cfg.n_heads)
    ]
    return torch.stack(through).sum(dim=0)[:, prompts.tokens]


def correlations(a: Float[Tensor, "m year"], b: Float[Tensor, "k year"]) -> Float[Tensor, "m k"]:
    """Pearson's correlation of each row of `a` with each of `b`; 0 where one is constant."""
    unit = [
        torch.nn.functional.normalize(rows.double() - rows.double().mean(dim=1, keepdim=True))
        for rows in (a, b)
    ]
    return unit[0] @ unit[1].T


def advantages(
    acts: Float[Tensor, "prompt m"], effects: Float[Tensor, "k year"], prompts: YearPrompts
) -> Float[Tensor, "m k"]:
    """The logit advantage of later years by the effects of `k`, where the features of `m` are on.

    It is the mean effect on years later than the prompt's less that on the others, averaged over
    prompts with the coefficients as weights; 0 for a feature that is never on.
    """
    later = (torch.arange(len(prompts.tokens)) > prompts.years.unsqueeze(1)).double()
    both = [where / where.sum(dim=1, keepdim=True) for where in (later, 1 - later)]
    steps = (both[0] - both[1]) @ effects.double().T
    weights = acts.double() / acts.double().sum(dim=0).clamp_min(1e-30)
    return weights.T @ steps


def own_and_other(pairs: Float[Tensor, "m m"]) -> tuple[float, float]:
    """The mean over features with themselves, and that over pairs of different ones: chance."""
    m, own = len(pairs), pairs.diagonal().sum()
    return float(own / m), float((pairs.sum() - own) / (m * (m - 1)))
