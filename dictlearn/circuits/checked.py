"""How every explanation of a prompt begins and ends: inputs that fit, sums that are complete."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.local_model import LocalModel, local_model
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import LanguageModel, require_hooks
from dictlearn.lm.identity import require_same_model
from dictlearn.text.prompts import prompt_ids


@contextmanager
def checked_model(
    model: LanguageModel,
    prompt: str | Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    *,
    cut_heads: bool = False,
    scores_of: int | None = None,
    allow_other_model: bool = False,
) -> Iterator[LocalModel]:
    """The local replacement model of a text, which BOS precedes if the model has one, or of ids.

    Raises:
        InputError: the model has no hooks, the prompt is no sequence, or a dictionary does not fit.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    ids = ids_of(model, prompt)
    if not allow_other_model:
        require_same_model(model, dictionaries)
    with local_model(model, ids, dictionaries, cut_heads=cut_heads, scores_of=scores_of) as local:
        yield local


def ids_of(model: LanguageModel, prompt: str | Int[Tensor, " pos"]) -> Int[Tensor, " pos"]:
    """The ids of a prompt.

    Raises:
        InputError: the model has no hooks, or the prompt is no sequence.
    """
    require_hooks(model)
    ids = prompt_ids(model.tokenizer, prompt)[0] if isinstance(prompt, str) else prompt
    if ids.ndim != 1 or not len(ids):
        raise InputError(f"required one sequence of ids, got shape {tuple(ids.shape)}")
    return ids


def require_complete(rows: Float[Tensor, "m node"], values: list[float]) -> None:
    """Raise an `InputError` unless rows add up to values, up to rounding in their dtype."""
    sums, sizes = rows.double().sum(dim=1), rows.double().abs().sum(dim=1)
    wanted = torch.tensor(values, dtype=torch.float64)
    gap = (sums.cpu() - wanted).abs() / torch.maximum(sizes.cpu(), wanted.abs()).clamp_min(1e-30)
    if not float(gap.max()) <= torch.finfo(rows.dtype).eps ** 0.5:
        raise InputError(
            "required a model that is linear where attention patterns, the scales of norms and "
            f"MLPs are held, got one of which {float(gap.max()):.1%} is missing from the sum of "
            "contributions: it has a part that is not known; use another model"
        )
