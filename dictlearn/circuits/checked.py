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

_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64)


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
        InputError: the model has no hooks, the prompt is no sequence, it is longer than the model
            can read, or an id is not in its vocabulary.
    """
    require_hooks(model)
    ids = prompt_ids(model.tokenizer, prompt)[0] if isinstance(prompt, str) else prompt
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.dtype not in _WHOLE or not len(ids):
        got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else ids
        raise InputError(f"required a text or one sequence of ids as a tensor, got {got!s:.80}")
    n_vocabulary, n_ctx = model.cfg.d_vocab, getattr(model.cfg, "n_ctx", None)
    if n_ctx and len(ids) > n_ctx:
        raise InputError(
            f"required a prompt of at most {n_ctx} tokens, the context of this model, got "
            f"{len(ids)}; shorten it"
        )
    if bool(((ids < 0) | (ids >= n_vocabulary)).any()):
        raise InputError(
            f"required ids from 0 to {n_vocabulary - 1}, got some from {int(ids.min())} to "
            f"{int(ids.max())}"
        )
    return ids.long()


def require_complete(local: LocalModel, rows: Float[Tensor, "m node"], values: list[float]) -> None:
    """Raise an `InputError` unless rows add up to values, up to rounding."""
    sums, sizes = rows.double().sum(dim=1), rows.double().abs().sum(dim=1)
    wanted = torch.tensor(values, dtype=torch.float64)
    gap = (sums.cpu() - wanted).abs() / torch.maximum(sizes.cpu(), wanted.abs()).clamp_min(1e-30)
    if not float(gap.max()) <= _rounding(local) ** 0.5:
        raise InputError(
            "required a model that is linear where attention patterns, the scales of norms and "
            f"MLPs are held, got one of which {float(gap.max()):.1g} is missing from the sum of "
            "contributions: it has a part that is not known; use another model"
        )


def _rounding(local: LocalModel) -> float:
    """The distance of 1 to the next number, in the coarsest dtype of model and dictionaries."""
    dtypes = {d.x_mean.dtype for d in local.dictionaries.values()} | {local.run.final.dtype}
    return max(torch.finfo(dtype).eps for dtype in dtypes)
