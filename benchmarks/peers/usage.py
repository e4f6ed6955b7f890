"""Time and memory of a piece of work in this process; needs nothing but Python."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GB = 1e9
STATUS = Path("/proc/self/status")
_SHARE = 0.7
"""The part of the memory that is free now which one process may fill."""


@dataclass(frozen=True)
class Usage:
    """Seconds and bytes of a call."""

    seconds: float
    cpu_seconds: float
    """Of all threads, user and system."""
    above: int
    """Peak of resident memory beyond what was resident before."""
    whole: int
    """Peak of resident memory of the process."""


def used(work: Callable[[], object]) -> Usage:
    """The usage of one call."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before, began, cpu = _status("VmRSS"), time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    most = _status("VmHWM")
    return Usage(seconds, cpu_seconds, most - before, most)


def limit_memory() -> int:
    """The bytes of data that this process may have from now on, a part of what is free."""
    found = next(line for line in Path("/proc/meminfo").read_text().splitlines()
                 if line.startswith("MemAvailable"))  # fmt: skip
    limit = int(_SHARE * int(found.split()[1]) * 1024)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def _status(name: str) -> int:
    """A line of the process's status: VmRSS is resident now, VmHWM at most so far."""
    found = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024
