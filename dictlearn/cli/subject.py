"""The language model of a command, and the device of all that it runs."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dictlearn.core.errors import InputError, nearest
from dictlearn.progress import timed

if TYPE_CHECKING:
    from dictlearn.core.dictionary import FeatureDictionary
    from dictlearn.lm.hooks import LanguageModel

DTYPES = ("float32", "bfloat16", "float16")


def loaded(name: str, *, check: bool, device: str | None, dtype: str) -> "LanguageModel":
    """The model of this name, on the device that was named or the default one."""
    import torch

    from dictlearn.lm.loading import load_model

    if dtype not in DTYPES:
        raise InputError(
            f"--model-dtype must be one of {', '.join(DTYPES)}, got {dtype!r}; "
            f"{nearest(dtype, DTYPES)}"
        )
    with timed("load the model"):
        return load_model(name, device, getattr(torch, dtype), check=check)


def beside(
    model: "LanguageModel", dictionaries: "Mapping[str, FeatureDictionary]"
) -> "dict[str, FeatureDictionary]":
    """The dictionaries, on the device of the model."""
    device = next(iter(model.parameters())).device
    return {name: dictionary.to(device) for name, dictionary in dictionaries.items()}


def use_device(name: str | None) -> None:
    """Make this the default device, also of the processes that are started from here."""
    from dictlearn.core.devices import DEVICE, usable_device

    if name is not None:
        os.environ[DEVICE] = str(usable_device(name))
