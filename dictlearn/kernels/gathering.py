"""Triton's loops or torch's operations for gathered rows on a GPU: timed once, and kept in a file.

Both compute the same sums, but their last bits differ with the order of terms. So, like that of a
search (`kernels.fastest`), the choice is kept for the machine. Without Triton nothing is timed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.kernels import kept, triton_loops

_PAYS = 0.95
"""The time, over that of torch's operations, below which Triton's loops are used."""
_TRIAL = (4096, 512, 8192, 32)
"""Rows, width, features and active features of the decoding that is timed."""
_ROUNDS = 5


class Loops(NamedTuple):
    """Two loops over rows that are gathered by their numbers."""

    weighted_sums: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Of `starts` [m + 1], `rows` [nnz], `weights` [nnz] and `x` [n, d]: for group i the sum over
    entries `starts[i]:starts[i + 1]` of weight times row of `x`, [m, d]."""
    dots: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Of `x_rows` [nnz], `y_rows` [nnz], `x` [n, d] and `y` [m, d]: for every entry its row of `x`
    times its row of `y`, [nnz]."""


@dataclass(frozen=True)
class GPUTimings:
    """The time of a decoding and its gradients by Triton, over that by torch's operations."""

    machine: str
    """GPU, and versions of torch and Triton."""
    triton: float

    def triton_pays(self) -> bool:
        """Whether Triton's loops are used."""
        return self.triton < _PAYS

    def verdict(self) -> str:
        """Which loops are used, and why, as a clause."""
        used = "Triton's loops" if self.triton_pays() else "torch's operations"
        return f"{used}, since Triton's take {self.triton:.2f} times as long ({self.machine})"


def loops(*tensors: Float[Tensor, "..."]) -> Loops:
    """The loops that take least time on the device and in the dtype of these tensors."""
    device, dtype = tensors[0].device, tensors[0].dtype
    on_one_gpu = device.type == "cuda" and all(
        t.dtype == dtype and t.device == device for t in tensors
    )
    if on_one_gpu and shortcuts_allowed() and triton_loops.is_installed():
        return TRITON if timings(device).triton_pays() else TORCH
    return TORCH


@cache
def timings(device: torch.device) -> GPUTimings:
    """The timings on a GPU: those kept in `path(device)`, or new ones, which are then kept."""
    return kept.kept_or_measured(path(device), lambda: measure(device), GPUTimings)


def forget() -> None:
    """Remove the timings kept of all GPUs of this machine."""
    for index in range(torch.cuda.device_count()):
        kept.remove(path(torch.device("cuda", index)))
    timings.cache_clear()


def told() -> list[str]:
    """For each GPU a sentence on which loops are used there, and why."""
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if not triton_loops.is_installed():
        return [
            f"{device}: torch's operations, since Triton is not installed" for device in devices
        ]
    return [f"{device}: {timings(device).verdict()}; kept in {path(device)}" for device in devices]


def path(device: torch.device) -> Path:
    """The file with the timings on a GPU."""
    return kept.file_of("gpu", described(device))


def described(device: torch.device) -> str:
    """The device by its maker's name, and the versions of torch and Triton."""
    from triton import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{name}, torch {torch.__version__}, Triton {__version__}"


def measure(device: torch.device) -> GPUTimings:
    """Time decoding and its two gradients both ways, in turn, on random coefficients."""
    make = torch.Generator().manual_seed(0)
    n, d, n_features, k = _TRIAL
    features = torch.rand(n, n_features, generator=make).topk(k).indices.flatten().to(device)
    rows = torch.arange(n, device=device).repeat_interleave(k, output_size=n * k)
    values, x, atoms = (
        torch.randn(shape, generator=make).to(device)
        for shape in ((n * k,), (n, d), (n_features, d))
    )
    order = features.argsort(stable=True)
    of_rows = torch.arange(0, n * k + 1, k, device=device)
    counts = torch.bincount(features, minlength=n_features)
    of_features = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def seconds(made: Loops) -> float:
        start = _now(device)
        made.weighted_sums(of_rows, features, values, atoms)
        made.weighted_sums(of_features, rows[order], values[order], x)
        made.dots(rows[order], features[order], x, atoms)
        return _now(device) - start

    ratios = []
    for turn in range(_ROUNDS + 1):
        plain, took = seconds(TORCH), seconds(TRITON)
        if turn:  # the first compiles
            ratios.append(took / plain)
    return GPUTimings(described(device), round(median(ratios), 3))


def _now(device: torch.device) -> float:
    """The clock, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _torch_weighted_sums(
    starts: Int[Tensor, " m_plus_1"],
    rows: Int[Tensor, " nnz"],
    weights: Float[Tensor, " nnz"],
    x: Float[Tensor, "n d"],
) -> Float[Tensor, "m d"]:
    return embedding_bag(rows, x, starts[:-1], mode="sum", per_sample_weights=weights)


def _torch_dots(
    x_rows: Int[Tensor, " nnz"],
    y_rows: Int[Tensor, " nnz"],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
) -> Float[Tensor, " nnz"]:
    return torch.linalg.vecdot(x[x_rows], y[y_rows])


TORCH = Loops(_torch_weighted_sums, _torch_dots)
"""Torch's operations; those of `dots` copy both rows of every entry."""
TRITON = Loops(triton_loops.weighted_sums, triton_loops.dots)
"""Triton's loops, which copy nothing."""
