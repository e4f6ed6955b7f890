"""The device on which models run and dictionaries are trained, unless one is named."""

import os

import torch

from dictlearn.core.errors import InputError

DEVICE = "DICTLEARN_DEVICE"
"""The environment variable that names the device for all that does not name one itself."""


def default_device() -> str:
    """The device that the environment names (`DICTLEARN_DEVICE`), else the GPU if there is one.

    A GPU of CUDA or ROCm, that is. Metal ("mps") has to be named: it has no float64, in which
    metrics are summed.
    """
    return os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu")


def naming(device: str | torch.device | None) -> str:
    """The words for a message about a device that was not given itself; empty for one that was."""
    return "" if device else f" (named by {DEVICE})"


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name, or the default one, after checking that torch can compute on it.

    >>> usable_device("cpu")
    device(type='cpu')

    Raises:
        InputError: there is no such device here, or it keeps no numbers ("meta").
    """
    name = device or default_device()
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # without CUDA it asserts
        why = f"{str(error).splitlines()[0]:.80}"
        raise InputError(
            f"the device {str(name)!r}{naming(device)} cannot be used ({why}); use 'cpu', or "
            "leave it out for the best there is"
        ) from error
    return found
