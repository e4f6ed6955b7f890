"""Atomic writes, and reads whose errors name the damaged file."""

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, DictLearnError, StorageError

JSON_FORMAT = 2
"""The format of the JSON files of this package."""
MOST_BYTES_OF_TEXT = 1 << 30
"""The largest text file that is read as a whole."""
MOST_LEVELS = 100
"""The deepest nesting of data in text files: far from what Python can compare, show or write."""

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


def json_text(data: dict[str, Any]) -> str:
    """`data` as JSON; `nan` and infinity are errors, since JSON has neither."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, data: dict[str, Any], opened: Opener = atomic_path) -> None:
    """Write `data` to `path` atomically, with the version of the format and a hash of the whole."""
    version = {"format": JSON_FORMAT}
    plain = json.loads(json_text(version | data | version))
    plain.pop("sha256", None)  # of data that were read as they are in a file
    write_text(path, json_text(plain | {"sha256": _seal(plain)}), opened)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, which any program may have written.

    Raises:
        CorruptFileError: the file is absent, too large, or is not a JSON object.
    """
    data = parsed(path, json.loads, "JSON")
    if not isinstance(data, dict):
        raise CorruptFileError(f"{path}: required a JSON object, got {type(data).__name__}")
    return data


def parsed(path: Path, parse: Callable[[str], Any], language: str) -> Any:
    """The text in `path`, parsed.

    Raises:
        CorruptFileError: the file is absent, too large, or not in that language.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES_OF_TEXT:
            raise CorruptFileError(
                f"{path}: required at most {MOST_BYTES_OF_TEXT:,} bytes of {language}, got {size:,}"
            )
        return plain_data(path.read_text(encoding="utf-8"), parse)
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        reason = f"not valid {language} ({error!s:.200}); it may be truncated"
        raise CorruptFileError(f"{path}: {reason}") from error


def plain_data(text: str, parse: Callable[[str], Any] = json.loads) -> Any:
    """The data that `text` describes, in which nothing is too large or too deep to be handled.

    Raises:
        ValueError: it is malformed or nested too deeply, has a whole number beyond 64 bits, or one
            entry that stands in several places (an alias of YAML), which can grow without bound.
    """
    try:
        level = [data := parse(text)]
    except (LookupError, AttributeError, RecursionError) as error:  # PyYAML of "!!bool x"
        raise ValueError(f"{type(error).__name__}: {error}") from error
    seen: set[int] = set()
    for _ in range(MOST_LEVELS):
        if any(type(item) is int and item.bit_length() > 64 for item in level):
            raise ValueError("a whole number beyond 64 bits")
        containers = [item for item in level if isinstance(item, dict | list | tuple | set)]
        if not seen.isdisjoint(ids := {*map(id, containers)}) or len(ids) < len(containers):
            raise ValueError("an entry that refers to another")
        seen |= ids
        level = [item for found in containers for item in found]
        level += [
            item for found in containers if isinstance(found, dict) for item in found.values()
        ]
        if not level:
            return data
    raise ValueError(f"nested more than {MOST_LEVELS} deep")


def read_own_json(
    path: Path, what: str, remake: str, *, unversioned: bool = False
) -> dict[str, Any]:
    """The content of a JSON file that `write_json` wrote, without its hash.

    Format 1 had no hash, and where `unversioned`, no version either. `remake` tells a reader, in
    the imperative, how to make such a file again.

    Raises:
        CorruptFileError: the file is absent, of another format, or altered since it was written.
    """
    data = read_json(path)
    seal = data.pop("sha256", None)
    version = data.get("format", 1 if unversioned else None)
    if version not in (1, JSON_FORMAT):
        raise CorruptFileError(
            f"{path}: required {what} format {JSON_FORMAT}, got {version!r:.80}; {remake} with "
            "this version"
        )
    if seal != (_seal(data) if seal is not None or version == JSON_FORMAT else None):
        raise CorruptFileError(
            f"{path}: was altered or damaged since it was written (its hash differs); {remake}"
        )
    return data


def _seal(data: dict[str, Any]) -> str:
    """The SHA-256 of JSON data in its canonical form."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_MALFORMED = (DictLearnError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError,
              RuntimeError)  # fmt: skip
"""The errors of code that takes apart data of another form than it expects; torch's is the last."""


@contextmanager
def entries_of(path: Path, problem: str = "an entry is missing or malformed") -> Iterator[None]:
    """A block that takes a file's data apart, whose errors name the file, or the folder of files.

    Raises:
        CorruptFileError: an entry is missing or malformed.
    """
    try:
        yield
    except _MALFORMED as error:
        told = isinstance(error, DictLearnError) and str(path) in str(error)
        if told or isinstance(error, CorruptFileError | StorageError):
            raise
        missing = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise CorruptFileError(f"{path}: {problem} ({missing:.300})") from error


def typed(data: Any, as_type: Any) -> Any:
    """Plain data as `as_type`, a dataclass or a container of these, with every type checked.

    Raises:
        ValueError: an entry is missing or of another type; the message names its path.
    """
    return msgspec.convert(data, as_type)


def write_tensors(
    path: Path,
    tensors: dict[str, Tensor],
    metadata: dict[str, str],
    opened: Opener = atomic_path,
) -> None:
    """Write named tensors to a safetensors file atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in whole.values())
    for name, tensor in whole.items():  # safetensors refuses tensors that share memory
        if owners[tensor.untyped_storage().data_ptr()] > 1:
            whole[name] = tensor.clone()
    with opened(path) as part:
        # safetensors writes to a temporary file of its own beside the one that it is asked for; if
        # it is killed, that file goes with the folder.
        folder = part.with_name(f".{path.name}.folder{part.name.removeprefix(f'.{path.name}')}")
        folder.mkdir()
        try:
            save_file(whole, folder / path.name, metadata=metadata)
            os.replace(folder / path.name, part)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def read_tensors(path: Path, hash: str | None = None) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, whose bytes have this SHA-256 if one is given.

    Raises:
        CorruptFileError: the file is absent, truncated, not safetensors, or was altered.
    """
    try:
        if hash is not None and sha256(path) != hash:
            raise CorruptFileError(
                f"{path}: was altered, damaged or replaced since it was written (its hash differs)"
            )
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


def readable(n_bytes: int) -> str:
    """A number of bytes in a unit that leaves at least one digit before the point.

    >>> readable(1_234_567), readable(999), readable(25_000_000_000)
    ('1.2 MB', '999 bytes', '25.0 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes} bytes"


def writable_folder(path: str | Path, n_bytes: int = 0) -> Path:
    """`path` as a folder that exists, can be written and has room for `n_bytes`.

    Raises:
        StorageError: it is a file, cannot be made or written, or the disk is too small.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # without a name that a killed process leaves
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(
            f"required a folder that can be written, got {folder} ({error.strerror or error}); "
            "choose another one"
        ) from error
    if n_bytes > free:
        raise StorageError(
            f"{folder}: {readable(n_bytes)} are required, {readable(free)} are free; free space, "
            "or ask for fewer tokens or a smaller dtype"
        )
    return folder
