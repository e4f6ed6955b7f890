"""The prompts of the greater-than study, as tokens, for models of text and of bare years."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.targets import Explained, Target
from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import LanguageModel
from dictlearn.synthetic.years import LaterYears
from dictlearn.text.prompts import prompt_ids

TASK = LaterYears()
"""The task of the model that is trained in the study."""
PROMPT = "The war lasted from the year 17{:02d} to the year 17"
_FIRST, _LAST = 1, 98
_LEAST_GAIN = 0.05
"""Least probability difference above that of one prediction for all prompts."""


@dataclass(frozen=True)
class LaterYearsTarget(Target):
    """The mean logit of the years after `year`, minus that of the others, at the last token."""

    year: int
    tokens: Sequence[int]
    """The token of each year, from 0."""

    def functions(self, local: LocalModel) -> list[Explained]:
        """The difference alone."""
        not_later = self.year + 1
        later = len(self.tokens) - not_later
        weights = {
            token: 1 / later if year > self.year else -1 / not_later
            for year, token in enumerate(self.tokens)
        }
        return [Explained(local.logit(weights, -1), 1.0, f"years after {self.year} - others")]


@dataclass(frozen=True)
class YearPrompts:
    """Prompts that all ask for a year after the one that they hold."""

    ids: Int[Tensor, "prompt pos"]
    years: Int[Tensor, " prompt"]
    tokens: Int[Tensor, " year"]
    """The token of each year, from 0."""

    @torch.no_grad()
    def probabilities(self, model: LanguageModel) -> Float[Tensor, "prompt year"]:
        """The probability of each year at the end, among all years."""
        logits = model(self.ids)[:, -1].double().cpu()
        return logits[:, self.tokens].softmax(dim=1)

    def difference(self, probabilities: Float[Tensor, "prompt year"]) -> float:
        """P(later) − P(not later), averaged over prompts; from −1 to 1, higher is better.

        Hanna et al. 2023: the year of the prompt itself is not later.
        """
        return float((probabilities * self._signs(probabilities)).sum(dim=1).mean())

    def blind_difference(self, probabilities: Float[Tensor, "prompt year"]) -> float:
        """The difference of the mean prediction, for all prompts: late years are a safe bet."""
        return self.difference(probabilities.mean(0, keepdim=True).expand_as(probabilities))

    def target(self, prompt: int) -> LaterYearsTarget:
        """The later years as the target of a prompt's circuit."""
        return LaterYearsTarget(int(self.years[prompt]), self.tokens.tolist())

    def _signs(self, like: Float[Tensor, "prompt year"]) -> Float[Tensor, "prompt year"]:
        later = torch.arange(len(self.tokens)) > self.years.unsqueeze(1)
        return 2 * later.to(like) - 1


def synthetic_prompts(task: LaterYears) -> YearPrompts:
    """All prompts of the task."""
    ids = task.prompts()
    return YearPrompts(ids, ids[:, 1], torch.arange(task.n_years))


def text_prompts(model: LanguageModel) -> YearPrompts:
    """The prompts in words, with the years 1701 to 1798.

    Raises:
        InputError: a year is not written as that of the prompt's end and one token more.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    ids, tokens = [], []
    for year in range(100):
        prompt, _ = prompt_ids(tokenizer, PROMPT.format(year))
        full, _ = prompt_ids(tokenizer, PROMPT.format(year) + f"{year:02d}")
        if not torch.equal(full[:-1], prompt):
            words = [tokenizer.decode([int(one)]) for one in full[len(prompt) - 2 :]]
            raise InputError(
                "the greater-than study needs a model whose tokenizer writes years as 17 and one "
                f"token of two digits; this one ends 17{year:02d} with {words}. Leave out --model "
                "for the small model that is trained in the study, or give one with GPT-2's tokens"
            )
        ids.append(prompt)
        tokens.append(int(full[-1]))
    if len(set(map(len, ids))) != 1 or len(set(tokens)) != len(tokens):
        raise InputError(
            "the greater-than study needs a model with a token of its own for each of 100 years "
            f"after 17, and prompts of one length; this tokenizer has {len(set(tokens))} different "
            "ones. Leave out --model for the small model that is trained in the study"
        )
    asked = torch.arange(_FIRST, _LAST + 1)
    return YearPrompts(torch.stack(ids)[asked], asked, torch.tensor(tokens))


def require_able(prompts: YearPrompts, model: LanguageModel) -> None:
    """Raise an `InputError` unless the model's predictions follow the year of the prompt."""
    found = prompts.probabilities(model)
    own, blind = prompts.difference(found), prompts.blind_difference(found)
    if own < blind + _LEAST_GAIN:
        raise InputError(
            f"the model cannot tell later years: P(later) - P(not later) is {own:.3f}, and "
            f"{blind:.3f} if every prompt gets the mean prediction; required {_LEAST_GAIN} more "
            "than that. Leave out --model for the small model that is trained in the study"
        )
