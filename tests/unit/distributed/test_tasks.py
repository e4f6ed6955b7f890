"""Tasks in several processes: order, values, errors."""

import os
import signal
import time
from functools import partial

import pytest
import torch

from dictlearn.core.errors import CorruptFileError, InputError, ProcessError
from dictlearn.distributed.tasks import Task, run_tasks


def work(path, name, seconds=0.0):
    time.sleep(seconds)
    path.joinpath(name).touch()
    return name, os.getpid()


def fail():
    raise CorruptFileError("of a file")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("nproc", [1, 2, 5])
def test_every_task_is_run_once_and_behind_those_that_it_needs(tmp_path, nproc):
    names, found = [f"t{i}" for i in range(5)], {}
    tasks = {
        name: Task(partial(work, tmp_path, name), (names[i - 2],) if i > 1 else ())
        for i, name in enumerate(names)
    }

    def done(name, value):
        assert found.keys() >= set(tasks[name].after)
        found[name] = value

    run_tasks(tasks, nproc, done)
    assert {name: value[0] for name, value in found.items()} == {name: name for name in names}
    assert (os.getpid() in {pid for _, pid in found.values()}) == (nproc == 1)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = {}
    run_tasks({n: Task(torch.get_num_threads) for n in "ab"}, 2, found.__setitem__)
    assert found == dict.fromkeys("ab", max(1, len(os.sched_getaffinity(0)) // 2))


def test_after_an_error_no_task_starts(tmp_path):
    tasks = {"fails": Task(fail), "slow": Task(partial(work, tmp_path, "slow", 60.0)),
             "later": Task(partial(work, tmp_path, "later"))}  # fmt: skip
    began = time.monotonic()
    with pytest.raises(CorruptFileError, match="of a file"):
        run_tasks(tasks, 2)
    assert time.monotonic() - began < 50  # the slow one was ended
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_killed_is_told():
    with pytest.raises(ProcessError, match="ended from outside"):
        run_tasks({"a": Task(die), "b": Task(die)}, 2)


def test_what_cannot_run_is_refused():
    with pytest.raises(InputError, match="at least 1 process, got nproc = 0"):
        run_tasks({}, 0)
    with pytest.raises(InputError, match=r"can be pickled .*'b' cannot"):
        run_tasks({"a": Task(die), "b": Task(lambda: 1)}, 2)
