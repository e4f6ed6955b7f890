"""Compiling loops, and calling them on torch's memory."""

import inspect
from collections.abc import Callable, Collection
from contextlib import suppress
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


def loop(
    *, parallel: bool = False, fastmath: Collection[str] = ()
) -> Callable[[Callable], Callable]:
    """A decorator that compiles a function when it is first called.

    The result is kept on disk, if numba finds a folder there that it may write. What is compiled is
    the function as written, without what a type checker wrapped around it.
    """

    def compiled(function: Callable) -> Callable:
        made = numba.njit(parallel=parallel, fastmath=set(fastmath))(inspect.unwrap(function))
        if not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
            with suppress(RuntimeError):  # no such folder: every process compiles for itself
                made.enable_caching()
        return made

    return compiled


def run(function: Callable[..., None], *arguments: Any) -> None:
    """Call a compiled loop with as many threads as torch uses.

    Tensors are passed as NumPy views of the same memory, so that the loop may write into them.
    """
    n_threads = torch.get_num_threads()
    with _ONE_AT_A_TIME:
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        function(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    if torch.get_num_threads() != n_threads:
        # When numba starts its threads, it gives torch, whose OpenMP it shares, as many.
        torch.set_num_threads(n_threads)
