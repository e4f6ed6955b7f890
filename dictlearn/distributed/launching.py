"""Several processes for one run: start them on this machine, or join those that were started."""

import atexit
import faulthandler
import json
import os
import pickle
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dictlearn.core import errors
from dictlearn.core.errors import ConfigError, DictLearnError, InputError, ProcessError
from dictlearn.distributed.interruption import interruptible
from dictlearn.distributed.process_group import SINGLE, ProcessGroup

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The environment by which torchrun, and launchers like it, tell a process who it is."""

_TOLD = 2
"""The exit status of a process that has told why it failed."""
_ORDERLY = {0, _TOLD, -signal.SIGTERM, 128 + signal.SIGTERM}
"""Exit statuses that explain themselves: done, told, or ended because another failed."""


def launch(nproc: int, work: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Call `work(*args, **kwargs)` in `nproc` processes of this machine, where `fit` divides rows.

    With one, it is a plain call. Each of several is a fresh interpreter, so `work` and
    its arguments must be picklable; each computes with its share of the cores, unless
    `OMP_NUM_THREADS` says otherwise.

    Raises:
        InputError: fewer than one process, torchrun has started several already, or `work` or an
            argument cannot be pickled.
        DictLearnError: what the first process to fail raised; the others were ended.
    """
    if nproc < 1:
        raise InputError(f"required at least 1 process, got nproc = {nproc}")
    if nproc == 1:
        work(*args, **kwargs)
        return
    if _by_torchrun():
        raise InputError(
            f"torchrun has started this process already, so nproc = {nproc} would start others in "
            "each of them; choose one of the two"
        )
    with tempfile.TemporaryDirectory() as folder:
        meeting, failure = Path(folder) / "meeting", Path(folder) / "failure"
        call = partial(work, *args, **kwargs)
        try:
            workers = mp.spawn(_worker, (nproc, meeting, failure, call), nproc, join=False)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"required a function and arguments that can be pickled for other processes, got "
                f"{_types(work, *args, *kwargs.values())} ({error}). Harvest live activations to a "
                "store first (harvest(…, out=FOLDER)), define functions at the top of a module, "
                "or start the processes with torchrun"
            ) from error
        with interruptible() as interruption:
            told = False
            try:
                while not workers.join(timeout=0.2):
                    # SIGINT reaches them all.
                    if interruption.signal == signal.SIGTERM and not told:
                        told = True
                        for process in workers.processes:
                            process.terminate()
            except (mp.ProcessExitedException, mp.ProcessRaisedException):
                if interruption.signal is None:
                    statuses = [process.exitcode for process in workers.processes]
                    raise _cause(statuses, failure) from None
                for process in workers.processes:
                    process.join()


def _types(work: Callable[..., object], *arguments: object) -> str:
    """The call in an error message, with the types of its arguments."""
    name = getattr(work, "__name__", type(work).__name__)
    return f"{name}({', '.join(type(argument).__name__ for argument in arguments)})"


def join() -> ProcessGroup:
    """The processes that share this run: those of `torch.distributed`, else those of torchrun.

    Raises:
        ConfigError: `torch.distributed` was set up without a backend for the CPU.
    """
    if not dist.is_available():
        return SINGLE
    if not dist.is_initialized():
        if not _by_torchrun():
            return SINGLE
        dist.init_process_group(_backend())
        atexit.register(_leave)
    if "cpu" not in dist.get_backend_config():
        raise ConfigError(
            "required torch.distributed with a backend for the CPU as well, got "
            f"{dist.get_backend_config()!r}; set it up with 'cpu:gloo,cuda:nccl', or leave that to "
            "fit"
        )
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def own_device(device: str, ranks: ProcessGroup) -> str:
    """The device of this process out of what a run asks for: of several, each has its own GPU.

    Raises:
        ConfigError: several processes would share one GPU.
    """
    if ranks.world_size == 1 or torch.device(device).type != "cuda":
        return device
    local, n_devices = int(os.environ.get("LOCAL_RANK", ranks.rank)), torch.cuda.device_count()
    if torch.device(device).index is not None or local >= n_devices:
        raise ConfigError(
            f"required device='cuda' and a GPU for each process, got {device!r} and {n_devices} "
            f"for process {local} (from 0); start fewer processes, or set device='cpu'"
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _worker(
    rank: int, nproc: int, meeting: Path, failure: Path, work: Callable[[], object]
) -> None:
    """One of the processes that `launch` starts."""
    end_with_the_parent()
    faulthandler.enable()  # a crash in native code says where
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, n_cores() // nproc))
    status = 0
    try:
        store = dist.FileStore(str(meeting), nproc)
        dist.init_process_group(_backend(), store=store, rank=rank, world_size=nproc)
        work()
        _leave()
    except (KeyboardInterrupt, SystemExit):
        status = 128 + signal.SIGINT  # the process that started this one tells
    except Exception as error:
        status = _TOLD
        told = {"type": type(error).__name__, "message": str(error)}
        if not isinstance(error, DictLearnError):
            told = {"type": ProcessError.__name__, "message": _told(rank, error)}
        words = failure.with_name(f"failure-{rank}")
        words.write_text(json.dumps(told), encoding="utf-8")
        with suppress(FileExistsError):
            failure.hardlink_to(words)  # whole or not at all; the first failure is told
    # An interpreter that winds up while threads of a backend still run can crash.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_with_the_parent() -> None:
    """Let the system end this process when the one that started it ends, whatever it is doing.

    torch asks for SIGINT, which waits for native code to return, and which a process started in
    the background (`nohup … &`) ignores. Where the system is not Linux, that is all there is.
    """
    if sys.platform == "linux":
        mp._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]


def _cause(statuses: list[int | None], failure: Path) -> DictLearnError:
    """The cause of failure: a process that died without a message, else the first error reported.

    If a process dies, the others fail as well when the connection closes, and may report first.
    """
    ended = {rank: status for rank, status in enumerate(statuses) if status not in _ORDERLY}
    told = json.loads(failure.read_text("utf-8")) if failure.exists() else None
    if told and not ended:
        kind: type[DictLearnError] = getattr(errors, told["type"], ProcessError)
        return kind(told["message"])
    died = ", ".join(f"process {rank} with exit status {status}" for rank, status in ended.items())
    return ProcessError(
        f"a process of this run was ended from outside ({died or 'by SIGTERM'})"
        + (f"; another then told: {told['message']}" if told else "")
    )


def n_cores() -> int:
    """The cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _told(rank: int, error: Exception) -> str:
    return f"process {rank} of this run failed:\n{''.join(traceback.format_exception(error))}"


def _by_torchrun() -> bool:
    return all(name in os.environ for name in _TORCHRUN) and os.environ["WORLD_SIZE"] != "1"


def _backend() -> str:
    return (
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    )


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
