"""A prompt as tokens."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.text.concepts import vocabulary_texts


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
        pieces = ", ".join(map(repr, vocabulary_texts(ids, tokenizer)))
        raise InputError(
            f"required one token, such as ' the' with its space, got {text!r}, which is "
            f"{len(ids)} ({pieces})"
        )
    return int(ids[0])


def token_text(tokenizer: Any, token: int) -> str:
    """A token as text, such as " the" with its space; its number if there is no tokenizer."""
    return f"<{token}>" if tokenizer is None else vocabulary_texts([token], tokenizer)[0]
