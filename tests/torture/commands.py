"""The commands that are killed, and processes that run them without importing anything."""

import mmap
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
OUT = "out"
"""The output folder of every command under attack, in the folder that it is started in."""
COMMANDS: dict[str, list[str]] = {
    "harvest": ["harvest", "--mlp", "0", "--tokens", "600", "--out", "{out}"],
    "fit": ["train", "{inputs}/store", "--config", f"{HERE}/fit.toml", "--out", "{out}"],
    "evaluate": [
        "evaluate",
        "{inputs}/run",
        "--tokens",
        "600",
        "--bits",
        "--overwrite",
        "--out",
        "{out}",
    ],
    "bench": ["bench", "tiny", "--studies", f"{HERE}/studies.py", "--out", "{out}"],
}
REFUSALS = {"harvest": "holds a store already", "fit": "a trained dictionary is already in"}
"""Replies of commands that were killed when all was written: they are finished."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


@dataclass(frozen=True)
class Kill:
    """The point of a process at which it is killed: a moment, or one of its file operations."""

    after_seconds: float | None = None
    before_operation: int | None = None

    def __str__(self) -> str:
        if self.before_operation is not None:
            return f"before file operation {self.before_operation}"
        return f"after {self.after_seconds:.3f} s"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (None if it was killed), and what it took."""

    status: int | None
    seconds: float
    operations: int
    said: str


def preload() -> None:
    """Import what the commands import when they run, so that forked processes need not.

    No thread is started, nothing is computed: a fork is as good as a fresh interpreter.
    """
    import_module("dictlearn.cli")
    for name in (
        "dictlearn.config_files", "dictlearn.studies.run", "dictlearn.studies.page",
        "dictlearn.comparison.report.html", "dictlearn.comparison.tables.terminal",
        "dictlearn.training.fit", "transformer_lens.model_bridge", "sklearn.decomposition",
        "plotly.graph_objects", "torch._dynamo", "typer._adapters",
    ):  # fmt: skip
        import_module(name)
    import_module("dictlearn.activations.store").SHARD_BYTES = 200_000  # type: ignore[attr-defined]


def started(command: Sequence[str], folder: Path, kill: Kill | None = None) -> Ended:
    """How a `dictlearn` command ended, run in `folder` by a process of its own, perhaps killed."""
    kill = kill or Kill()
    done = mmap.mmap(-1, 8)  # shared with the process: its number of file operations
    log = folder / "log"
    log.touch()
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(command, folder, log, done, kill.before_operation)
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - began
        if found:
            break
        if kill.after_seconds is not None and seconds >= kill.after_seconds:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(status)
    if code < 0 and code != -signal.SIGKILL:
        raise ChildProcessError(f"{command} died of signal {-code}; see {log}")
    said = " ".join(log.read_text(errors="replace").split())
    operations = int.from_bytes(done[:], "little")
    return Ended(None if code < 0 else code, seconds, operations, said)


def _become(
    command: Sequence[str], folder: Path, log: Path, done: mmap.mmap, kill_before: int | None
) -> None:
    """Turn this forked process into the command. It never returns."""
    status = 1
    try:
        os.chdir(folder)
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        _count_operations(os.fspath(folder / OUT), done, kill_before)
        sys.argv = ["dictlearn", *command]
        import_module("dictlearn.cli").main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _count_operations(out: str, done: mmap.mmap, kill_before: int | None) -> None:
    """Count the operations of this process that change the folder; kill it before one of them."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "open":
            if not (isinstance(arguments[2], int) and arguments[2] & _WRITES):
                return
        elif event not in _OPERATIONS:
            return
        path = arguments[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        if not os.path.abspath(os.fsdecode(path)).startswith(out):
            return
        if count == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        done[:] = count.to_bytes(8, "little")

    sys.addaudithook(hook)
