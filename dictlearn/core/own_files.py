"""The files that belong to a run: those on the list in their folder, and no others.

A file is listed, with its hash, before it is renamed to its final name, and removed from the list
after it is deleted, so an interrupted run leaves no unlisted file. Each folder has its own list.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.file_lists import (
    LIST_FILE,
    FileList,
    Version,
    is_file_name,
    read_list,
    remove_leftovers,
    remove_matching,
    write_list,
)
from dictlearn.core.files import (
    atomic_path,
    sha256,
    writable_folder,
    write_json,
    write_tensors,
    write_text,
)
from dictlearn.core.folders import folder_of_a_run
from dictlearn.core.locks import locked

_WAIT = 5.0
"""Seconds that a file is waited for while another process writes to the same folder."""
_LEAVE_IT = "nothing else is removed or overwritten: choose another folder, or move it away"


@dataclass(frozen=True)
class OwnFiles:
    """The files of one kind of run in a folder. The list is read anew each time it is asked."""

    path: Path
    run: str
    """The kind of run that writes them: a study, training, a harvest."""

    @classmethod
    def of(
        cls, folder: "str | Path | OwnFiles", run: str = "results", n_bytes: int = 0
    ) -> "OwnFiles":
        """The files of `run` in `folder`; an `OwnFiles` is returned unchanged.

        Raises:
            StorageError: the folder cannot be made or written, or lacks room for `n_bytes`.
        """
        own = folder if isinstance(folder, OwnFiles) else cls(Path(folder), run)
        writable_folder(own.path, n_bytes)
        return own

    def lists(self, name: str) -> bool:
        """Whether a file or folder of this name belongs to this run."""
        mine = self._mine()
        return name in mine["files"] or name in mine["folders"]

    def sha256(self, name: str) -> str:
        """The hash that a file of this run was written with."""
        return str(self._mine()["files"][name][0]["sha256"])

    def require(self, *names: str) -> None:
        """Check that each of these files may be written: it is absent, or own and unmodified.

        Raises:
            InputError: one may not; the message names it.
        """
        runs = read_list(self.path)["runs"]
        for name in names:
            path = self._at(name)
            if not os.path.lexists(path):
                continue
            writers = [run for run in runs if name in runs[run]["files"]]
            if self.run not in writers:
                by = f"it is of another kind of run, {writers[0]}" if writers else "no list has it"
                raise InputError(
                    f"{path} is not a file that {self.run} wrote here ({by}), and {_LEAVE_IT}"
                )
            versions = runs[self.run]["files"][name]
            if not (_is_file(path) if versions is None else _found(versions, path)):
                raise InputError(f"{path} has changed since {self.run} wrote it, and {_LEAVE_IT}")

    def require_unaltered(self, name: str) -> None:
        """Check that a file of this run, which is read, has the bytes that it was written with.

        Raises:
            CorruptFileError: it has not.
        """
        versions = self._mine()["files"].get(name) or []
        path = self._at(name)
        if versions and sha256(path) not in [version["sha256"] for version in versions]:
            raise CorruptFileError(
                f"{path}: was altered or damaged since it was written (its hash differs)"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A run of this process in the folder, which keeps other processes out.

        What killed runs left half-written there, and in the folders inside, is removed. The folder
        is made if it is absent, and removed again if the run fails before it has written anything.

        Raises:
            StorageError: the folder cannot be written, or another process is at work in it.
        """
        with folder_of_a_run(self.path), locked(self.path) as outermost:
            for own in self._everywhere() if outermost else ():
                with locked(own.path):
                    remove_leftovers(own.path)
            yield

    # Writing

    @contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """A temporary path for the file `path` of this folder.

        If the block succeeds, the file is listed and renamed.
        """
        self.require(path.name)
        with self._edited() as data:  # creates the list, so that the mark persists
            mark = data["mark"]
        remove_matching(self.path, f".{escape(path.name)}.*.{mark}.part")
        with atomic_path(path, f".{mark}.part") as part:
            yield part
            self._list(path.name, part)

    def write_text(self, name: str, text: str) -> None:
        """Write `text` to the file `name` atomically."""
        write_text(self._at(name), text, self.writing)

    def write_json(self, name: str, data: dict[str, Any]) -> None:
        """Write `data` to the file `name` atomically."""
        write_json(self._at(name), data, self.writing)

    def write_tensors(
        self, name: str, tensors: dict[str, Tensor], metadata: dict[str, str]
    ) -> None:
        """Write named tensors to the safetensors file `name` atomically."""
        write_tensors(self._at(name), tensors, metadata, self.writing)

    def grow(self, name: str) -> None:
        """List `name` as a file that is appended to; any content is accepted until adoption."""
        self.require(name)
        with self._edited() as data:
            data["runs"][self.run]["files"][name] = None

    def adopt(self, *names: str) -> None:
        """List the current content of files: those appended to, and those on no list.

        The caller guarantees that the latter are its own (earlier versions kept no list).
        """
        for name in names:
            path, runs = self._at(name), read_list(self.path)["runs"]
            listed = {run: runs[run]["files"][name] for run in runs if name in runs[run]["files"]}
            if listed in ({}, {self.run: None}) and _is_file(path):
                with self._edited() as data:
                    data["runs"][self.run]["files"][name] = [asdict(Version.of(path))]

    # Folders inside

    def inside(self, name: str, run: str = "") -> "OwnFiles":
        """The files of this run, or of a `run` that it starts, in the folder `name` of this one.

        Raises:
            InputError: `name` is a link, or a folder with files of another run.
        """
        path = self._at(name)
        if path.is_symlink():
            raise InputError(f"{path} is a link, and a run stays in its folder: remove the link")
        if not self.lists(name) and os.path.lexists(path / LIST_FILE):
            raise InputError(f"{path} holds files of another run, and {_LEAVE_IT}")
        return OwnFiles(path, run or self.run)

    def folder(self, *names: str, run: str = "") -> "OwnFiles":
        """Like `inside`, for a path of one or more names; the folders are created and listed."""
        name, *rest = names
        inner = self.inside(name, "" if rest else run)
        if not self.lists(name):
            entry = {"run": inner.run, "made": not inner.path.exists()}
            with self._edited() as data:
                data["runs"][self.run]["folders"][name] = entry
        writable_folder(inner.path)
        return inner.folder(*rest, run=run) if rest else inner

    def folders(self) -> "list[OwnFiles]":
        """The existing subfolders with files of this run."""
        entries = self._mine()["folders"].items()
        found = [self.inside(name, entry["run"]) for name, entry in entries]
        return [inner for inner in found if inner.path.is_dir()]

    # Removing

    def remove(self, *names: str) -> None:
        """Remove files of this run, if they exist.

        Raises:
            InputError: one belongs to another run, or was modified; nothing was removed.
        """
        self.require(*names)
        for name in names:
            self._at(name).unlink(missing_ok=True)
        if any(map(self.lists, names)):
            with self._edited() as data:
                for name in names:
                    data["runs"][self.run]["files"].pop(name, None)

    def clear(self) -> None:
        """Remove every file of this run, the last written first, and the folders that it created.

        Raises:
            InputError: one of the files was modified; nothing was removed.
        """
        everywhere = list(self._everywhere())
        for own in everywhere:
            own.require(*own._mine()["files"])
        for own in everywhere:
            own.remove(*reversed(own._mine()["files"]))
        for own in reversed(everywhere):
            own._strike()

    def _everywhere(self) -> "Iterator[OwnFiles]":
        yield self
        for inner in self.folders():
            yield from inner._everywhere()

    def _strike(self) -> None:
        """Remove this run from the list, and its leftover temporary files."""
        with locked(self.path, wait=_WAIT):
            remove_leftovers(self.path)
            for name, entry in self._mine()["folders"].items():
                if entry["made"]:
                    with suppress(OSError):  # it holds files of others, or no longer exists
                        self._at(name).rmdir()
            data = read_list(self.path)
            if data["runs"].pop(self.run, None) is not None:
                write_list(self.path, data)

    # The list

    def _at(self, name: str) -> Path:
        if not is_file_name(name):
            raise InputError(f"required the name of something in {self.path}, got {name!r}")
        return self.path / name

    def _mine(self) -> dict[str, Any]:
        """This run's part of the list."""
        mine: dict[str, Any] = read_list(self.path)["runs"].get(self.run)
        return mine or {"files": {}, "folders": {}}

    def _list(self, name: str, part: Path) -> None:
        """List `part` as the file `name`, in addition to the version that it will replace."""
        path, new = self._at(name), asdict(Version.of(part))
        with self._edited() as data:
            files = data["runs"][self.run]["files"]
            known = files.pop(name, None)  # the last written comes last
            old: list[dict[str, Any]] = []
            if path.exists():
                old = [asdict(Version.of(path))] if known is None else _found(known, path)
            files[name] = [new, *old]

    @contextmanager
    def _edited(self) -> Iterator[FileList]:
        """The list with an entry for this run, written if the block succeeds and changed it."""
        with locked(self.path, wait=_WAIT):
            data = read_list(self.path)
            before = deepcopy(data)
            data["runs"].setdefault(self.run, {"files": {}, "folders": {}})
            yield data
            if data["runs"] != before["runs"]:
                write_list(self.path, data)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _found(versions: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The first version that matches the file `path`, if any."""
    return [version for version in versions if Version(**version).is_in(path)][:1]
