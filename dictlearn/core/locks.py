"""One run in a folder at a time."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dictlearn.core.errors import StorageError

LOCK_FILE = "dictlearn.lock"


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[bool]:
    """A block that no other process enters for the same folder; whether it is the outermost.

    The system lets go of the lock when a process ends, however it ends, so that a file left
    behind holds nobody up. Blocks of one process may be nested.

    Raises:
        StorageError: another process holds the folder, and did so for `wait` seconds.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=wait, poll_interval=0.02)
    except Timeout:
        raise StorageError(
            f"{folder} is in use by {_holder(path)}: wait until it ends, or choose another folder"
        ) from None
    except OSError as error:
        raise StorageError(f"{folder} cannot be locked ({error}); choose another one") from error
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            with suppress(OSError):
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield outermost
    finally:
        if outermost:
            path.unlink(missing_ok=True)  # while it is held: who waits for it opens it anew
        lock.release()


def _holder(path: Path) -> str:
    """The process that holds the lock, in words."""
    try:
        return path.read_text(encoding="utf-8")[:200] or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"
