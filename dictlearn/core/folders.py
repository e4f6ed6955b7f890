"""Folders that a run makes, and paths as they are seen from a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dictlearn.core.files import writable_folder


@contextmanager
def folder_of_a_run(path: Path) -> Iterator[None]:
    """A block in which `path` is a folder that can be written.

    Folders that are made for it, and are empty when the block fails, are removed again.

    Raises:
        StorageError: it cannot be made or written.
    """
    made = _absent(path)
    try:
        writable_folder(path)
        yield
    except BaseException:
        _remove_empty(made)
        raise


def require_writable(path: Path) -> None:
    """Check that `path` is a folder that can be written, or can be made; it is not made.

    Raises:
        StorageError: it cannot.
    """
    made = _absent(path)
    try:
        writable_folder(path)
    finally:
        _remove_empty(made)


def _absent(path: Path) -> list[Path]:
    """The folders that have to be made for `path`, the innermost first."""
    return [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]


def _remove_empty(folders: list[Path]) -> None:
    with suppress(OSError):  # one is not empty, or was not made
        for folder in folders:
            folder.rmdir()


def path_from(folder: Path, path: str) -> str:
    """An absolute path as it is seen from `folder`: relative, if they share more than the root.

    Folders that lie together are moved together, and a relative path tells no more than it must.

    >>> path_from(Path("/home/me/runs/sae"), "/home/me/text.txt")
    '../../text.txt'
    >>> path_from(Path("/home/me/runs/sae"), "/data/text.txt")
    '/data/text.txt'
    """
    here, there = folder.resolve(), Path(path)
    if here.parts[:2] != there.parts[:2]:
        return path
    return Path(os.path.relpath(there, here)).as_posix()


def path_in(folder: Path, path: str) -> str:
    """The absolute path that `path_from` described, now that the folder is `folder`."""
    return os.path.normpath(folder.resolve() / path)
