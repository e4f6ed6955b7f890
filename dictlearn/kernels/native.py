"""Calling compiled loops on torch's memory."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import numba
import torch
from torch import Tensor

_ONE_AT_A_TIME = Lock()
"""Held by the loop that runs: not every threading layer of numba may be entered twice."""


def is_native(*tensors: Tensor) -> bool:
    """Whether compiled loops can work on these: float32 or float64 in the CPU's memory."""
    return all(
        t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in tensors
    )


def run(loop: Callable[..., None], *arguments: Any) -> None:
    """Call a loop of `kernels.compiled` with as many threads as torch uses.

    Tensors are passed as NumPy views of the same memory, so that the loop may write into them.
    """
    n_threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    with _ONE_AT_A_TIME:
        numba.set_num_threads(n_threads)
        loop(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
