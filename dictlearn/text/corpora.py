"""Documents of the built-in corpus, of local files, of data sets and of lists."""

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from dictlearn.core.errors import CorruptFileError, InputError, nearest
from dictlearn.core.files import MOST_LEVELS, plain_data
from dictlearn.text.columns import Column, Document
from dictlearn.text.hub import why_no_hub
from dictlearn.text.places import data_set, files_hash, is_scheme, place_of, source_name

Source: TypeAlias = str | Path | Iterable[Any]
"""A name or path, or rows at hand: a list of texts, or a `datasets.Dataset`."""

Row: TypeAlias = tuple[int, Any]
"""A row with its number, from 1: an object with columns, or the value itself."""

BUILTIN_CORPORA = {"builtin:stories": "stories/corpus.jsonl.xz"}
SEPARATOR_LINE = "<|endoftext|>"
ACCEPTED = (
    "'builtin:stories', a .txt, .jsonl or .parquet file (.txt and .jsonl also as .xz or .gz), a "
    "folder of such files, 'hf:NAME' or 'hf:NAME:CONFIG', or a list of texts"
)
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
_SUFFIXES = (".txt", ".jsonl", ".txt.xz", ".txt.gz", ".jsonl.xz", ".jsonl.gz", ".parquet")
_ROWS_AT_ONCE = 1024


def documents(
    source: Source, column: Column | None = None, dataset_split: str | None = None
) -> Iterator[Document]:
    """The non-empty documents of `source`, one by one.

    * `builtin:stories`: the corpus included in the package;
    * `.txt`: documents are separated by lines `<|endoftext|>`, or, in a file without such a line,
      by blank lines;
    * `.jsonl`: an object with the column, or the text itself (a string), on each line;
    * `.parquet`: the column;
    * a folder: all files of these types in it, in alphabetical order;
    * `hf:NAME` or `hf:NAME:CONFIG`: the column of one split of a data set on the Hugging Face hub
      or in a local folder, streamed;
    * a list of texts, or anything else that gives texts or rows with columns, such as a
      `datasets.Dataset`.

    Documents are read lazily, so a source may be larger than memory. `column` says which column
    is read and counts the empty rows that it skips, by default "text". `dataset_split` is the
    split of a data set, by default "train".

    Raises:
        InputError: the source is unknown or absent (immediately), or has no text, no such column,
            or something else than text in a row of it (when read).
        CorruptFileError: a file is truncated or malformed (when read).
    """
    column = column or Column()
    tables = _tables(source, dataset_split)
    return _required((column.of(name, row) for name, rows in tables for row in rows), source)


def source_hash(source: Source) -> str:
    """The fingerprint (`files_hash`) of the files of a local source; empty for any other.

    Raises:
        InputError: it has no files that `documents` reads.
        CorruptFileError: a file cannot be read.
    """
    place = place_of(source)
    if place is None or not isinstance(source, str | Path):
        return ""
    if not is_scheme(source):
        return files_hash(_members(place), place)
    inside = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith("."))
    return files_hash(inside, place)


def _tables(source: Source, split: str | None) -> Iterable[tuple[str, Iterator[Row]]]:
    """The rows of each table of a source, with its name in messages."""
    if isinstance(source, str) and source.startswith("hf:"):
        return [(source, _hugging_face(source, split or "train"))]
    if isinstance(source, Mapping):  # a DatasetDict
        if (split or "train") not in source:
            raise InputError(f"no split {split or 'train'!r}; {nearest(split or 'train', source)}")
        source, split = source[split or "train"], None
    if split is not None:
        raise InputError(
            f"dataset_split={split!r} needs a data set with splits (hf:NAME, hf:FOLDER or a "
            f"DatasetDict), got {source_name(source)}"
        )
    if not isinstance(source, str | Path):
        return [(source_name(source), enumerate(source, start=1))]
    if source in BUILTIN_CORPORA:
        return [(str(source), _builtin(BUILTIN_CORPORA[str(source)]))]
    return [(str(path), _file(path)) for path in _members(source)]


def _members(source: str | Path) -> list[Path]:
    path = Path(source).expanduser()
    if is_scheme(source) or not path.exists():
        raise InputError(_unknown(source, path))
    if path.is_dir():
        members = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(_SUFFIXES))
        if not members:
            raise InputError(f"{path}: required a folder with text files in it; use {ACCEPTED}")
        return members
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"{path}: the kind of file is not known by its ending; use {ACCEPTED}")
    return [path]


def _unknown(source: str | Path, path: Path) -> str:
    siblings: Iterable[str] = ()
    if path.parent.is_dir():
        siblings = [p.name for p in path.parent.iterdir() if p.name.endswith(_SUFFIXES)]
    hint = nearest(path.name, [*BUILTIN_CORPORA, *siblings])
    return f"no text source {str(source)!r}; {hint} (accepted: {ACCEPTED})"


def _required(found: Iterator[Document | None], source: Source) -> Iterator[Document]:
    any_found = False
    for document in found:
        if document is not None:
            any_found = True
            yield document
    if not any_found:
        raise InputError(
            f"{source_name(source)}: required at least one document with text, got none"
        )


def _builtin(name: str) -> Iterator[Row]:
    with as_file(files("dictlearn.assets") / name) as path:
        yield from _file(path)


def _file(path: Path) -> Iterator[Row]:
    if path.suffix == ".parquet":
        return _parquet(path)
    return _jsonl(path) if ".jsonl" in path.suffixes[-2:] else enumerate(_txt(path), start=1)


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
            if line.strip() != boundary:
                held.append(line)
            else:
                yield from _joined(held)
                held.clear()
    yield from _joined(held)


def _joined(lines: list[str]) -> list[str]:
    """The document of these lines, if it is not blank."""
    text = "".join(lines).strip("\n")
    return [text] if text and not text.isspace() else []


def _jsonl(path: Path) -> Iterator[Row]:
    with _lines(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                # Only what has many brackets can be deep, and rows of token ids are long.
                is_flat = line.count("[") + line.count("{") < MOST_LEVELS
                yield number, json.loads(line) if is_flat else plain_data(line)
            except ValueError as error:
                raise CorruptFileError(
                    f"{path}, line {number}: not valid JSON ({error})"
                ) from error


def _parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            batches = file.iter_batches(_ROWS_AT_ONCE)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (ArrowException, OSError, ValueError) as error:
        raise CorruptFileError(f"{path}: cannot be read as parquet ({error})") from error


def _hugging_face(source: str, split: str) -> Iterator[Row]:
    from datasets import load_dataset
    from huggingface_hub import constants

    name, config = data_set(source)
    on_hub = not Path(name).is_dir() and not constants.HF_HUB_OFFLINE
    if reason := why_no_hub() if on_hub else "":
        raise InputError(f"{source}: the dataset could not be opened ({reason})")
    try:
        rows = load_dataset(name, config or None, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: the dataset could not be opened ({error})") from error
    return enumerate(rows, start=1)
