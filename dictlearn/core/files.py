"""Atomic writes, and reads whose errors name the damaged file."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, StorageError

Opener = Callable[[Path], AbstractContextManager[Path]]
"""A context manager: a temporary path, which is renamed to the given one on success."""


@contextmanager
def atomic_path(path: Path, suffix: str = ".part") -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block succeeds."""
    part = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(0o666 & ~_umask())
        with part.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not write {path} ({error}); free space or choose another folder"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions of an ordinary new file: temporary files are private, final ones are not."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str, opened: Opener = atomic_path) -> None:
    """Write `text` to `path` atomically."""
    with opened(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, data: dict[str, Any], opened: Opener = atomic_path) -> None:
    """Write `data` to `path` atomically; `nan` and infinity are errors, since JSON has neither."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, opened)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        CorruptFileError: the file is absent or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: not valid JSON ({error}); it may be truncated") from error
    if not isinstance(data, dict):
        raise CorruptFileError(f"{path}: required a JSON object, got {type(data).__name__}")
    return data


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    opened: Opener = atomic_path,
) -> None:
    """Write named tensors to a safetensors file atomically."""
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with opened(path) as part:
        save_file(whole, part, metadata=metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file.

    Raises:
        CorruptFileError: the file is absent, truncated or not safetensors.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(f"{path}: cannot be read as safetensors ({error})") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def writable_folder(path: str | Path, n_bytes: int = 0) -> Path:
    """`path` as a folder that exists, can be written and has room for `n_bytes`.

    Raises:
        StorageError: it is a file, cannot be made or written, or the disk is too small.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(
            f"required a folder that can be written, got {folder} ({error.strerror or error}); "
            "choose another one"
        ) from error
    if n_bytes > free:
        raise StorageError(
            f"{folder}: {n_bytes / 1e9:.2f} GB are required, {free / 1e9:.2f} GB are free; free "
            "space, or ask for fewer tokens or a smaller dtype"
        )
    return folder
