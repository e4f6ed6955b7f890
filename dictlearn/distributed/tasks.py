"""Independent tasks of one run, in several processes of this machine."""

import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
import torch.multiprocessing as mp

from dictlearn.core.errors import InputError, ProcessError
from dictlearn.distributed.launching import end_with_the_parent, n_cores


@dataclass(frozen=True)
class Task:
    """A call without arguments, and the names of tasks that must be done before."""

    work: Callable[[], Any]
    after: tuple[str, ...] = ()


def run_tasks(
    tasks: Mapping[str, Task],
    nproc: int,
    done: Callable[[str, Any], None] = lambda name, value: None,
) -> None:
    """Run all tasks, and call `done` with the name and the value of each, in this process.

    With one process, tasks run in this one, in their order. Each of several is a fresh interpreter
    with its share of the cores (unless `OMP_NUM_THREADS` says otherwise), and a task runs as soon
    as those before it are done. After an error no further task starts.

    Raises:
        InputError: fewer than one process, or tasks that cannot be pickled for several.
        ProcessError: a process was ended from outside.
    """
    if nproc < 1:
        raise InputError(f"required at least 1 process, got nproc = {nproc}")
    if nproc == 1 or len(tasks) < 2:
        for name, task in tasks.items():
            done(name, task.work())
        return
    _require_picklable(tasks)
    waiting = dict(tasks)
    running: dict[Future[Any], str] = {}
    pool = ProcessPoolExecutor(
        nproc, mp.get_context("spawn"), initializer=_begin, initargs=(nproc,)
    )
    try:
        while waiting or running:
            # No more than there are processes, so that the order of tasks decides.
            left = {*waiting, *running.values()}
            ready = [name for name, task in waiting.items() if left.isdisjoint(task.after)]
            for name in ready[: nproc - len(running)]:
                running[pool.submit(waiting.pop(name).work)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done(running.pop(future), future.result())
    except BrokenProcessPool as error:
        raise ProcessError(
            "a process of this run was ended from outside; repeat the call to continue"
        ) from error
    except BaseException:
        for process in (pool._processes or {}).values():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _require_picklable(tasks: Mapping[str, Task]) -> None:
    for name, task in tasks.items():
        try:
            pickle.dumps(task.work)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"required tasks that can be pickled for other processes, but {name!r} cannot "
                f"({error}): define it at the top of a module that can be imported, or run all in "
                "one process"
            ) from error


def _begin(nproc: int) -> None:
    end_with_the_parent()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, n_cores() // nproc))
