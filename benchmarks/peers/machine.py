"""Origin of the numbers on a page of results."""

import os
import platform
from collections.abc import Mapping

import torch

from dictlearn.kernels import processor


def head(libraries: Mapping[str, str], absent: Mapping[str, str]) -> str:
    """The opening of the page: machine, versions and command; no names of hosts or paths."""
    lines = [
        "# Speed, beside other libraries",
        "",
        "Written by `make peers` (`benchmarks/peers/`), which installs all libraries into one "
        "virtual environment and times them in turn in one run. A number in brackets is the "
        "range over rounds, or over seeds where it says so. A section can be measured again by "
        "itself (`--only`), and on each kind of processor; the command and the machine stand under "
        "each.",
        "",
        f"* versions: {', '.join([versions(), *map(' '.join, libraries.items())])}",
    ]
    lines += [f"* left out: {name} ({why})" for name, why in absent.items()]
    return "\n".join(lines)


def described() -> str:
    """The machine, and how threads wait on it."""
    waiting = os.environ.get("OMP_WAIT_POLICY", "as by default").lower()
    return (
        f"{cores()} cores of {processor.described()}; {memory()} of memory, {platform.system()} "
        f"{platform.machine()}; OpenMP threads wait {waiting}"
    )


def instructions() -> str:
    """The widest instructions that products may use here, by name."""
    if processor.multiplies_bfloat16():
        return "AVX512-BF16"
    return torch.backends.cpu.get_cpu_capability()


def versions() -> str:
    """The versions of Python and torch."""
    return f"Python {platform.python_version()}, torch {torch.__version__}"


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> str:
    """The machine's memory."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "an unknown amount"
    return f"{size / 2**30:.0f} GiB"
