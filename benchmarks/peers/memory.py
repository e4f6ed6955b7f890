"""Peak memory of two training steps, each contender in a fresh process.

`python -m benchmarks.peers.memory KIND LIBRARY FEATURES WIDTH K BATCH THREADS` is that process; it
prints one line of JSON. KIND is a name such as TOPK_SAE or RELU_SAE.
"""

import contextlib
import json
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.peers.measure import digits
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Kind, Plan
from benchmarks.peers.registry import Contenders, in_short
from dictlearn.core.batches import Batch

GB = 1e9
_STATUS = Path("/proc/self/status")
_SHARE = 0.7
"""The part of the memory that is free now which one process may fill."""


@dataclass(frozen=True)
class Peak:
    """Bytes of one contender."""

    held: int
    """Parameters, buffers and optimizer state."""
    above: int
    """Peak memory of the process beyond those and beyond its memory before."""


def _status_bytes(name: str) -> int:
    """A line of the process's status: VmRSS is resident now, VmHWM at most so far."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


def peak(kind: Kind, plan: Plan, library: str, batch_size: int) -> Peak:
    """The memory of making a dictionary and taking two steps with it, in this process."""
    x = torch.randn(batch_size, plan.width)
    x @ torch.randn(plan.width, 64)  # so that threads and their buffers are there already
    batch = Batch(x, x)
    maker = Contenders().named(library).makers[kind]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _status_bytes("VmRSS")
    trainee = maker(plan, batch)
    for _ in range(2):
        trainee.update(batch)
    most = _status_bytes("VmHWM")
    held = sum({t.data_ptr(): t.nbytes for t in trainee.held()}.values())
    return Peak(held, most - before - held)


def measured(kind: Kind, plan: Plan, library: str, batch_size: int, threads: int) -> Peak | str:
    """The result of `peak` in a separate process, or the reason for its failure."""
    numbers = (plan.n_features, plan.width, plan.k, batch_size, threads)
    command = [sys.executable, "-m", "benchmarks.peers.memory", kind.name, library]
    command += map(str, numbers)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    with contextlib.suppress(IndexError, json.JSONDecodeError):
        answer = json.loads(ran.stdout.splitlines()[-1])
        return answer["why"] if "why" in answer else Peak(**answer)
    return f"ended with status {ran.returncode}"


def _main() -> None:
    kind, library, *numbers = sys.argv[1:]
    n_features, width, k, batch_size, threads = map(int, numbers)
    torch.set_num_threads(threads)
    limit = int(_SHARE * _available())
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answer: dict[str, object]
    try:
        answer = asdict(peak(Kind[kind], Plan(width, n_features, k), library, batch_size))
    except Exception as error:  # said in the table, where the others stand too
        if "can't allocate memory" in str(error):
            answer = {"why": f"more than the {limit / GB:.0f} GB that it was given"}
        else:
            answer = {"why": in_short(error)}
    print(json.dumps(answer))


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _memory(run: Run) -> list[Table]:
    if not _STATUS.exists():
        return [Table("Not measured: this system has no /proc", ("library",))]
    size = run.size
    everyone = [peer.name for peer in run.contenders.offering(Kind.TOPK_SAE, options=False)]
    tables = []
    for kind, n_features, k, names in (
        (Kind.TOPK_SAE, size.memory_features, size.k, everyone),
        (Kind.TOPK_SAE, size.most_features, size.k, everyone[:1]),
        (Kind.RELU_SAE, size.most_features, size.most_features // 2, everyone[:1]),
    ):  # half of the features are active in a row where training begins
        table = Table(
            f"{kind.value}: {n_features:,} of width {size.width}, k = {k:,}, batch {size.batch:,}",
            ("library", "parameters and optimizer, GB", "peak above them, GB"),
        )
        for name in names:
            run.done(f"{kind.value}, {n_features:,}, {name}")
            plan = Plan(size.width, n_features, k)
            found = measured(kind, plan, name, size.batch, run.threads)
            if isinstance(found, Peak):
                table.add(name, digits(found.held / GB), digits(found.above / GB))
            else:
                table.add(name, "—", "—")
                table.notes.append(f"{name}: {found}")
        tables.append(table)
    return tables


MEMORY = Part(
    "Peak memory",
    "Each library makes one dictionary and takes two full steps in a process of its own. Counted "
    "is the highest resident memory of that time, less what was resident just before (the "
    "interpreter, all libraries, the batch). Parameters, buffers and optimizer state stand "
    "apart; the rest is gradients, activations and whatever else a step needs for a while.",
    _memory,
)

if __name__ == "__main__":
    _main()
