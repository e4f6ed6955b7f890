"""Documents of the built-in corpus, of local files and of Hugging Face data sets."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TextIO

from dictlearn.core.errors import CorruptFileError, InputError, nearest

BUILTIN_CORPORA = {"builtin:stories": "stories/corpus.jsonl.xz"}
SEPARATOR_LINE = "<|endoftext|>"
ACCEPTED = (
    "'builtin:stories', a .txt, .jsonl or .parquet file (.txt and .jsonl also as .xz or .gz), a "
    "folder of such files, 'hf:NAME' or 'hf:NAME:CONFIG'"
)
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
_SUFFIXES = (".txt", ".jsonl", ".txt.xz", ".txt.gz", ".jsonl.xz", ".jsonl.gz", ".parquet")


def documents(source: str | Path) -> Iterator[str]:
    """The non-empty documents of `source`, one by one.

    * `builtin:stories`: the corpus included in the package;
    * `.txt`: documents are separated by lines `<|endoftext|>`, or, in a file without such a line,
      by blank lines;
    * `.jsonl`: a string, or an object with a "text" field, on each line;
    * `.parquet`: the column "text";
    * a folder: all files of these types in it, in alphabetical order;
    * `hf:NAME` or `hf:NAME:CONFIG`: the column "text" of the "train" split of a data set on the
      Hugging Face hub, streamed.

    Documents are read lazily, so a source may be larger than memory.

    Raises:
        InputError: the source is unknown or absent (immediately), or has no text or no column
            "text" (when read).
        CorruptFileError: a file is truncated or malformed (when read).
    """
    return _not_empty(_read(source), source)


def source_name(source: str | Path) -> str:
    """The name of `source` in records; for local paths, the last component."""
    return str(source) if _is_scheme(source) else Path(source).expanduser().resolve().name


def _is_scheme(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(("builtin:", "hf:"))


def _read(source: str | Path) -> Iterator[str]:
    if source in BUILTIN_CORPORA:
        return _builtin(BUILTIN_CORPORA[str(source)])
    if isinstance(source, str) and source.startswith("hf:"):
        return _hugging_face(source)
    path = Path(source).expanduser()
    if _is_scheme(source) or not path.exists():
        raise InputError(_unknown(source, path))
    if path.is_dir():
        members = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(_SUFFIXES))
        if not members:
            raise InputError(f"{path}: required a folder with text files in it; use {ACCEPTED}")
        return (document for member in members for document in _file(member))
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"{path}: the kind of file is not known by its ending; use {ACCEPTED}")
    return _file(path)


def _unknown(source: str | Path, path: Path) -> str:
    siblings: Iterable[str] = ()
    if path.parent.is_dir():
        siblings = [p.name for p in path.parent.iterdir() if p.name.endswith(_SUFFIXES)]
    hint = nearest(path.name, [*BUILTIN_CORPORA, *siblings])
    return f"no text source {str(source)!r}; {hint} (accepted: {ACCEPTED})"


def _not_empty(texts: Iterator[str], source: str | Path) -> Iterator[str]:
    found = False
    for text in texts:
        if text and not text.isspace():
            found = True
            yield text
    if not found:
        raise InputError(f"{source}: required at least one document with text, got none")


def _builtin(name: str) -> Iterator[str]:
    with as_file(files("dictlearn.assets") / name) as path:
        yield from _file(path)


def _file(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        return _parquet(path)
    return _jsonl(path) if ".jsonl" in path.suffixes[-2:] else _txt(path)


@contextmanager
def _lines(path: Path) -> Iterator[TextIO]:
    try:
        with _OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as lines:
            yield lines
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise CorruptFileError(
            f"{path}: cannot be read as text ({error}); it may be absent, truncated, or not UTF-8"
        ) from error


def _txt(path: Path) -> Iterator[str]:
    with _lines(path) as lines:
        marked = any(line.strip() == SEPARATOR_LINE for line in lines)
    boundary = SEPARATOR_LINE if marked else ""
    held: list[str] = []
    with _lines(path) as lines:
        for line in lines:
            if line.strip() == boundary:
                yield "".join(held).strip("\n")
                held.clear()
            else:
                held.append(line)
    yield "".join(held).strip("\n")


def _jsonl(path: Path) -> Iterator[str]:
    with _lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise CorruptFileError(
                    f"{path}, line {number}: not valid JSON ({error})"
                ) from error
            text = entry.get("text") if isinstance(entry, dict) else entry
            if not isinstance(text, str):
                raise CorruptFileError(
                    f'{path}, line {number}: required a string or an object with a "text" field, '
                    f"got {line.strip()[:80]}"
                )
            yield text


def _parquet(path: Path) -> Iterator[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            _require_text(str(path), file.schema_arrow.names)
            for batch in file.iter_batches(columns=["text"]):
                yield from (text for text in batch.column(0).to_pylist() if text)
    except (ArrowException, OSError) as error:
        raise CorruptFileError(f"{path}: cannot be read as parquet ({error})") from error


def _hugging_face(source: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise InputError(
            f"{source}: required the package datasets; pip install dictlearn[datasets]"
        ) from error
    name, _, config = source.removeprefix("hf:").partition(":")
    try:
        rows = load_dataset(name, config or None, split="train", streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: the dataset could not be opened ({error})") from error
    return _column(source, rows)


def _column(source: str, rows: Iterable[dict[str, object]]) -> Iterator[str]:
    for row in rows:
        _require_text(source, row)
        yield str(row["text"] or "")


def _require_text(where: str, columns: Iterable[str]) -> None:
    if "text" not in columns:
        raise InputError(f'{where}: required a column "text", got {", ".join(columns)}')
