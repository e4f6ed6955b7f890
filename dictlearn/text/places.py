"""Texts on this machine: their names in records, their places, and fingerprints of their files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dictlearn.core.errors import CorruptFileError

_PIECE = 1 << 14
_PIECES = 64
"""Most pieces of all files together that enter a fingerprint, and two of each file at least."""


def is_scheme(source: Any) -> bool:
    """Whether `source` names a built-in corpus or a data set, and is no path by itself."""
    return isinstance(source, str) and source.startswith(("builtin:", "hf:"))


def data_set(source: str) -> tuple[str, str]:
    """Name or folder, and configuration, of the data set `hf:NAME` or `hf:NAME:CONFIG`."""
    name, _, config = source.removeprefix("hf:").partition(":")
    return name, config


def place_of(source: Any) -> Path | None:
    """The file or folder on this machine that `source` is, also as a data set; None for others."""
    if not isinstance(source, str | Path) or str(source).startswith("builtin:"):
        return None
    if isinstance(source, str) and is_scheme(source):
        path = Path(data_set(source)[0])
        return path.resolve() if path.is_dir() else None
    path = Path(source).expanduser()
    return path.resolve() if path.exists() else None


def source_name(source: Any) -> str:
    """The name of `source` in records; for local paths, the last component."""
    if not isinstance(source, str | Path):
        return f"{type(source).__name__} in memory"
    if not is_scheme(source):
        return Path(source).expanduser().resolve().name
    name, place = str(source), place_of(source)
    return name if place is None else source_at(name, place.name)


def source_at(name: str, place: str) -> str:
    """The source that is called `name` in records, at a place on this machine."""
    if not is_scheme(name):
        return place
    return ":".join(filter(None, ("hf", place, data_set(name)[1])))


def files_hash(files: Sequence[Path], folder: Path) -> str:
    """The SHA-256 of files by their names in `folder`, their sizes and pieces of their bytes.

    All bytes enter if there are at most a million; otherwise evenly spaced pieces, so that large
    files take no longer. A change of other bytes that leaves all sizes as they were goes unseen.

    Raises:
        CorruptFileError: a file cannot be read.
    """
    digest, n_pieces = hashlib.sha256(), max(2, _PIECES // max(1, len(files)))
    for path in files:
        try:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()} {size}".encode())
            last = max(0, size - _PIECE)
            with path.open("rb") as file:
                for i in range(n_pieces):
                    file.seek(last * i // (n_pieces - 1))
                    digest.update(file.read(_PIECE))
        except OSError as error:
            raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
