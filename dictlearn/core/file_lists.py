"""The list of the files that runs wrote to a folder: names and hashes, but no paths.

{"format": 2, "mark": "0a1b2c3d", "runs": {"study": {
    "files": {"results.json": [{"sha256": "…", "bytes": 7, "mtime_ns": 1}]},
    "folders": {"activations": {"run": "harvest", "made": true}}}}}

A file has two versions while one replaces the other, and null while it is appended to.
`mark` is in the names of temporary files.
"""

import re
import secrets
import shutil
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import (
    atomic_path,
    entries_of,
    read_own_json,
    sha256,
    typed,
    write_json,
)
from dictlearn.core.locks import LOCK_FILE

LIST_FILE = "dictlearn.files"
FileList = dict[str, Any]
"""A list in its JSON form."""


def is_file_name(name: object) -> bool:
    """Whether `name` is valid for a listed file: a path on no system, and not the list itself.

    >>> [is_file_name(name) for name in ("mlp0", "../mlp0", "a/b", "C:\\\\b", "..", "")]
    [True, False, False, False, False, False]
    """
    return (
        isinstance(name, str)
        and name.lower() not in ("", ".", "..", LIST_FILE, LOCK_FILE)
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
        and "\0" not in name
    )


@dataclass(frozen=True)
class Version:
    """The hash of a file, with the size and time that show an unchanged file without reading it."""

    sha256: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Version":
        """The version of the file `path`, which is read."""
        status = path.stat()
        return cls(sha256(path), status.st_size, status.st_mtime_ns)

    def is_in(self, path: Path) -> bool:
        """Whether `path` is a regular file with this content; read only if its time has changed."""
        status = path.lstat()
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == self.bytes
            and (status.st_mtime_ns == self.mtime_ns or sha256(path) == self.sha256)
        )


@dataclass(frozen=True)
class _Folder:
    run: str
    made: bool


@dataclass(frozen=True)
class _Run:
    files: dict[str, list[Version] | None]
    folders: dict[str, _Folder]


def read_list(folder: Path) -> FileList:
    """The list in `folder`, or an empty one.

    Raises:
        CorruptFileError: it is a link, malformed, or holds anything but names in its folder.
    """
    path = folder / LIST_FILE
    if path.is_symlink():
        raise CorruptFileError(f"{path}: required a file, got a link; remove it")
    if not path.exists():
        return {"mark": secrets.token_hex(4), "runs": {}}
    data = read_own_json(path, "list", "choose another folder, or remove the list")
    with entries_of(path):
        _check(data)
    return data


def _check(data: FileList) -> None:
    if not re.fullmatch("[0-9a-f]{8}", data["mark"]):
        raise ValueError(f"mark {data['mark']!r}")
    for run in typed(data["runs"], dict[str, _Run]).values():
        for name in (*run.files, *run.folders):
            if not is_file_name(name):
                raise ValueError(f"{name!r} is not a name in this folder")


def write_list(folder: Path, data: FileList) -> None:
    """Write the list of `folder`, which the caller has locked; remove it if no run has files."""
    path = folder / LIST_FILE
    remove_matching(folder, f".{LIST_FILE}.*.part")
    if data["runs"]:
        write_json(
            path,
            data,
            partial(atomic_path, suffix=f".{data['mark']}.part"),
        )
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`, which the caller has locked.

    A list has a name of its own: of the first one that a folder was to have, nobody knows the mark.
    """
    remove_matching(folder, f".*.{read_list(folder)['mark']}.part")
    remove_matching(folder, f".{LIST_FILE}.*.part")


def remove_matching(folder: Path, pattern: str) -> None:
    """Remove the files and folders in `folder` that match a pattern of temporary names."""
    for left in folder.glob(pattern):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
