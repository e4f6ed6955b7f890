"""Dictionaries by name, as functions that look at one or several take them."""

from collections.abc import Mapping
from typing import TypeAlias

from dictlearn.core.dictionary import FeatureDictionary

Dictionaries: TypeAlias = FeatureDictionary | Mapping[str, FeatureDictionary]
"""One dictionary, or several by name."""


def by_name(dictionaries: Dictionaries) -> Mapping[str, FeatureDictionary]:
    """Several dictionaries by name; one alone has the name of its kind."""
    if isinstance(dictionaries, FeatureDictionary):
        return {dictionaries.kind: dictionaries}
    return dictionaries
