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
        _logger.info("timed on this machine: %s; kept in %s", found, file)
        with suppress(StorageError, OSError):  # no such folder: every process times for itself
            file.parent.mkdir(parents=True, exist_ok=True)
            if _kept(file, kind) is None:  # another process was first: all follow it
                write_json(file, asdict(found))  # type: ignore[call-overload]
            found = _kept(file, kind) or found
    return found


def read(file: Path, kind: type[_T]) -> _T:
    """The timings in a file.

    Raises:
        CorruptFileError: the file is absent, of another format, or altered since it was written.
    """
    data = read_own_json(file, "timings", "delete it, and they will be taken again")
    with entries_of(file):
        return typed({name: value for name, value in data.items() if name != "format"}, kind)


def _kept(file: Path, kind: type[_T]) -> _T | None:
    """The timings in a file; None if there is none, or one that is of no use, which is logged."""
    try:
        return read(file, kind) if file.exists() else None
    except CorruptFileError as error:
        _logger.warning("timings are not used: %s", error)
        return None
