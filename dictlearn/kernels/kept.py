"""Timings of code paths, kept in files: a choice, once made, is kept for the machine."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from dictlearn.core.errors import CorruptFileError, StorageError
from dictlearn.core.files import entries_of, read_own_json, typed, write_json

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

FOLDER = "DICTLEARN_CACHE"
"""The environment variable that names the folder where timings are kept."""


def file_of(what: str, machine: str) -> Path:
    """The file with the timings of `what` on a machine, in the user's folder for caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get(FOLDER) or Path(base) / "dictlearn")
    return folder / f"{what}-{sha256(machine.encode()).hexdigest()[:12]}.json"


def kept_or_measured(file: Path, measure: Callable[[], _T], kind: type[_T]) -> _T:
    """The timings in a file, or new ones, which are then kept there."""
    found = _kept(file, kind)
    if found is None:
        found = measure()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if _kept(file, kind) is None:  # another process was first: all follow it
                write_json(file, asdict(found))  # type: ignore[call-overload]
            found = _kept(file, kind) or found
            _logger.info("timed on this machine: %s; kept in %s", found, file)
        except (StorageError, OSError):
            _logger.warning(
                "timed on this machine: %s; %s cannot be written, so every process times for "
                "itself, and runs may differ in the last bits: name another folder (%s)",
                found, file, FOLDER,
            )  # fmt: skip
    return found


def is_kept(file: Path) -> bool:
    """Whether there is such a file that can be read."""
    return os.access(file, os.R_OK) and file.is_file()


def remove(file: Path) -> None:
    """Remove a file of timings, if it can be."""
    with suppress(OSError):
        file.unlink()


def read(file: Path, kind: type[_T]) -> _T:
    """The timings in a file.

    Raises:
        CorruptFileError: the file is absent, of another format, or altered since it was written.
    """
    data = read_own_json(file, "timings", "they are taken again")
    with entries_of(file):
        return typed({name: value for name, value in data.items() if name != "format"}, kind)


def _kept(file: Path, kind: type[_T]) -> _T | None:
    """The timings in a file; None if there is none, or one that is of no use, which is logged."""
    try:
        return read(file, kind) if file.exists() else None
    except (CorruptFileError, OSError) as error:
        _logger.warning("timings are not used: %s", error)
        return None
