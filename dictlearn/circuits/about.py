"""Origin of a graph: model, dictionaries, settings and versions, as plain data."""

import json
from collections.abc import Mapping
from typing import Any

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance


def origin(
    model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary], **settings: Any
) -> dict[str, Any]:
    """The provenance of the model and of the dictionaries, as results have it, and the settings."""
    found = {
        "model": model_provenance(model).to_dict(),
        "dictionaries": {
            name: {
                "kind": dictionary.kind,
                "sites": dictionary.sites.to_dict(),
                "n_features": dictionary.n_features,
                "provenance": dictionary.provenance.to_dict(),
            }
            for name, dictionary in dictionaries.items()
        },
        "settings": settings,
    }
    return dict(json.loads(json.dumps(found)))  # as files have it: lists, no tuples


def lines(about: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    """The entries of nested data that are not empty, each with its path.

    >>> lines({"a": {"b": [1, 2], "c": ""}, "d": False})
    [('a, b', '1, 2'), ('d', 'False')]
    """
    found = []
    for name, value in about.items():
        own = f"{path}, {name}" if path else str(name)
        if isinstance(value, Mapping):
            found += lines(value, own)
        elif isinstance(value, list | tuple):
            found += [(own, ", ".join(map(str, value)))] if value else []
        elif value is not None and value != "":
            found.append((own, str(value)))
    return found
