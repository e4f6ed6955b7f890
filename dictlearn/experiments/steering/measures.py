"""How often texts take up a topic, and what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.experiments.steering.topics import PROMPTS, TOPICS, has_topic
from dictlearn.finetuning.config import next_token_loss
from dictlearn.interventions.edit import Edit
from dictlearn.interventions.inside import inside
from dictlearn.lm.generation import generate
from dictlearn.lm.hooks import LanguageModel


@dataclass(frozen=True)
class Steered:
    """A model that runs through dictionaries, with edits."""

    model: LanguageModel
    dictionaries: Mapping[str, FeatureDictionary]
    edits: Sequence[Edit] = ()
    keep_error: bool = False


@torch.no_grad()
def steering(
    steered: Steered,
    clean: LanguageModel,
    held_out: Int[Tensor, "block pos"],
    *,
    n_samples: int,
    n_new: int,
    seed: int,
) -> dict[str, float]:
    """The fraction of sampled texts with each topic, and two costs, in nats per token.

    `implausibility` is the loss of the sampled texts under the `clean` model, `loss` that of the
    steered model on `held_out` text. Texts follow each of the published prompts `n_samples` times;
    prompts are not searched for topics, and nothing after the end of a text counts.
    """
    model, tokenizer = steered.model, clean.tokenizer
    stop = tokenizer.eos_token_id
    prompts = [
        torch.tensor([stop, *tokenizer.encode(prompt, add_special_tokens=False)])
        for prompt in PROMPTS
        for _ in range(n_samples)
    ]
    ids, mask = padded_left(prompts, stop)
    with inside(
        model, steered.dictionaries, edits=list(steered.edits), keep_error=steered.keep_error
    ):
        rows = generate(model, ids, n_new, mask=mask, seed=seed, stop=stop)
        logits = torch.cat([model(part) for part in held_out.split(16)])
    found = {"loss": float(next_token_loss(logits, held_out))}
    texts, total, n = [], 0.0, 0
    for prompt, row in zip(prompts, rows, strict=True):
        new = row[ids.shape[1] :]
        end = int((new == stop).nonzero()[0]) if (new == stop).any() else len(new)
        texts.append(tokenizer.decode(new[:end].tolist()))
        if end:
            scored = torch.cat([prompt, new[:end]])
            losses = cross_entropy(clean(scored[None])[0, :-1], scored[1:], reduction="none")
            total, n = total + float(losses[len(prompt) - 1 :].sum()), n + end
    found["implausibility"] = total / max(n, 1)
    return found | {topic: float(has_topic(texts, topic).float().mean()) for topic in TOPICS}


def padded_left(
    prompts: Sequence[Int[Tensor, " _"]], token: int
) -> tuple[Int[Tensor, "b pos"], Int[Tensor, "b pos"]]:
    """Prompts of several lengths as one batch, and its mask: 0 at the padding before each."""
    longest = max(map(len, prompts))
    rows = [torch.cat([prompt.new_full((longest - len(prompt),), token), prompt])
            for prompt in prompts]  # fmt: skip
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = torch.arange(longest) >= longest - lengths.unsqueeze(1)
    return torch.stack(rows), mask.long()
