"""A prompt as tokens."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.errors import InputError


def prompt_ids(tokenizer: Any, text: str) -> tuple[Int[Tensor, " pos"], int]:
    """The ids of a prompt, and the number of special ones (BOS, if any) with which they begin.

    Raises:
        InputError: there is no tokenizer, or no token at all.
    """
    if tokenizer is None:
        raise InputError("required a model with a tokenizer to read a prompt, or ids as a tensor")
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = torch.tensor([*start, *tokenizer.encode(text, add_special_tokens=False)])
    if not len(ids):
        raise InputError("required a prompt, since this model has no token to begin with, got none")
    return ids.long(), len(start)


def single_token(tokenizer: Any, text: str) -> int:
    """The id of a text that is one token.

    Raises:
        InputError: it is none or several.
    """
    if tokenizer is None:
        raise InputError("required a model with a tokenizer to read a token, or its id")
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([one])) for one in ids)
        raise InputError(
            f"required one token, such as ' the' with its space, got {text!r}, which is "
            f"{len(ids)} ({pieces})"
        )
    return int(ids[0])
