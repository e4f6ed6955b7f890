"""Dictionaries by name, as functions that look at one or several take them."""

from collections.abc import Mapping
from typing import TypeAlias

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError

Dictionaries: TypeAlias = FeatureDictionary | Mapping[str, FeatureDictionary]
"""One dictionary, or several by name."""


def by_name(dictionaries: Dictionaries) -> Mapping[str, FeatureDictionary]:
    """Several dictionaries by name; one alone has the name of its kind.

    Raises:
        InputError: it is neither.
    """
    if isinstance(dictionaries, FeatureDictionary):
        return {dictionaries.kind: dictionaries}
    if not isinstance(dictionaries, Mapping):
        raise InputError(
            "required a dictionary, or several by name, as load and load_all return; got "
            f"{dictionaries!r:.80}"
        )
    return dictionaries
