"""The text of a command."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dictlearn.cli.options import TokenCount

if TYPE_CHECKING:
    from dictlearn.core.tokens import Tokens


def reading(
    source: str, split: str, tokens: TokenCount, **settings: Any
) -> "Callable[..., Tokens]":
    """`load_tokens` with these arguments, to be given a model.

    Raises:
        InputError, CorruptFileError: nothing can be read so, which is known without a model.
    """
    from dictlearn.text.tokens import load_tokens, require_readable

    require_readable(source, split, tokens.n, **settings)
    return partial(
        load_tokens, source, split=split, n_tokens=tokens.n, at_most=tokens.at_most, **settings
    )
