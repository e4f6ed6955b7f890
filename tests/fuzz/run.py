"""One mutation after the other: what a reader makes of the damaged files, and whether it may."""

import contextlib
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from dictlearn.core.errors import DictLearnError
from dictlearn.core.files import write_json
from tests.fuzz.mutations import mutated

SECONDS = 10
"""The longest time that a reader may take."""
ROOM = 1 << 30
"""Bytes of memory that a reader may ask for."""
OUTCOMES = ("refused", "equal", "other", "unnamed", "foreign")
"""An error of ours; the content as it was; other content; an error of ours that names no file; an
error that is not ours, a warning, or no end."""


@dataclass(frozen=True)
class Reader:
    """A reader of files, and samples for it."""

    make: Callable[[Path], object]
    """Writes samples, each to a folder of its own inside the given one."""
    read: Callable[[Path], Any]
    """The content of the sample in a folder."""
    sealed: bool = False
    """Whether files carry hashes, so that only the content that was written may be read."""
    resealed: bool = False
    """Whether hashes are made to fit after a mutation, as if such a file had been written."""
    reads_list: bool = False
    """Whether the list of files is among those read; elsewhere it is left out of samples."""


@dataclass
class Count:
    """The outcomes of a reader, and an account of each failure."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class _NoEnd(BaseException):
    """Not an `Exception`: no handler may mistake it for an error."""


def fuzz(
    name: str,
    reader: Reader,
    folder: Path,
    indices: Iterator[int] | range,
    seed: int = 0,
    keep: Path | None = None,
    done: Callable[[], object] = lambda: None,
) -> Count:
    """The outcomes of mutations number `indices` of the samples that are made in `folder`.

    A failure is an outcome that is foreign or unnamed, and other content where files are sealed.
    The files of failures go to `keep`.
    """
    folder.mkdir(exist_ok=True)
    reader.make(folder)
    for path in () if reader.reads_list else folder.rglob("dictlearn.files"):
        path.unlink()
    with contextlib.redirect_stderr(io.StringIO()):
        samples = [_Sample(path, reader) for path in sorted(folder.iterdir())]
    count = Count()
    with _limits(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("error")
        for i in indices:
            rng = random.Random(f"{seed}/{name}/{i}")
            sample = samples[rng.randrange(len(samples))]
            outcome, words, why = sample.outcome(rng)
            count.outcomes[outcome] += 1
            if outcome in ("unnamed", "foreign") or (outcome == "other" and reader.sealed):
                again = f"python -m tests.fuzz --reader {name} --seed {seed} --only {i}"
                told = f"{sample.folder.name}/{words}: {outcome}: {why}\n  again: {again}"
                count.failures.append(told)
                if keep is not None:
                    kept = keep / name / str(i)
                    shutil.copytree(sample.folder, kept, dirs_exist_ok=True)
                    (kept / "why.txt").write_text(told)
            sample.restore()
            done()
    return count


class _Sample:
    def __init__(self, folder: Path, reader: Reader) -> None:
        self.folder, self._reader = folder, reader
        self._files = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self._original = plain(reader.read(folder))
        self._names = {str(folder), *(path.name for path in self._files)}

    def outcome(self, rng: random.Random) -> tuple[str, str, str]:
        """The outcome of one mutation, the mutation in words, and the reason in words."""
        path = rng.choice(list(self._files))
        words, data = mutated(path.name, self._files[path], rng)
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
            if self._reader.resealed:
                reseal(self._files, path, data)
        words = f"{path.name}, {words}"
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            content = plain(self._reader.read(self.folder))
        except DictLearnError as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if _is_about_memory(error):
                return "foreign", words, f"memory was asked for first: {error}"
            named = any(name in str(error) for name in self._names)
            return "refused" if named else "unnamed", words, f"{type(error).__name__}: {error}"
        except (Exception, _NoEnd) as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            place = traceback.extract_tb(error.__traceback__)
            ours = [f"{f.filename}:{f.lineno}" for f in place if "/dictlearn/" in f.filename]
            return "foreign", words, f"{type(error).__name__}: {error!s:.300} at {ours[-1:]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return "equal" if content == self._original else "other", words, "other content was read"

    def restore(self) -> None:
        for path, data in self._files.items():
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)


def plain(content: Any) -> Any:
    """Content as data that compare equal where they are the same to the bit."""
    if isinstance(content, torch.Tensor):
        return str(content.dtype), tuple(content.shape), content.flatten().tolist().__repr__()
    if is_dataclass(content):
        return [(f.name, plain(getattr(content, f.name))) for f in fields(content)]
    if isinstance(content, dict):
        return sorted((repr(key), plain(value)) for key, value in content.items())
    if isinstance(content, list | tuple):
        return [plain(item) for item in content]
    return repr(content)


def reseal(files: dict[Path, bytes], changed: Path, data: bytes) -> None:
    """Make the hashes and sizes in our JSON files fit the file that was changed."""
    old, new = (hashlib.sha256(raw) for raw in (files[changed], data))
    for path, raw in files.items():
        is_json = path.suffix in (".json", ".files")
        if not is_json or (path != changed and old.hexdigest().encode() not in raw):
            continue
        raw = data if path == changed else raw
        with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
            content = json.loads(raw.replace(*(d.hexdigest().encode() for d in (old, new))))
            for entry in _entries(content):
                if entry.get("sha256") == new.hexdigest() and "bytes" in entry:
                    entry["bytes"] = len(data)
            write_json(path, content, contextlib.nullcontext)


def _entries(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(inner, dict | list):
            yield from _entries(inner)


def _is_about_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "t allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """A block with a limit on memory (on Linux), and in which an alarm is an error."""

    def stop(*_: object) -> None:
        raise _NoEnd(f"no end within {SECONDS} seconds")

    handler = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
