"""Loading and saving dictionaries, in the format of this package or of another library."""

import re
from collections.abc import Sequence
from pathlib import Path

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.files import entries_of
from dictlearn.core.folder_sorts import EXPORTED, require_apart
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries import files
from dictlearn.interop.formats import FORMATS, Format

_PREFIXED = re.compile(r"([A-Za-z_-]{2,}):(.+)", re.DOTALL)  # one letter is a drive


def load(
    path: str | Path, kinds: Sequence[type[DictionaryConfig]] = (), *, sites: Sites | None = None
) -> FeatureDictionary:
    """The dictionary that was saved to `path`, by `save` or by another library.

    `saelens:PATH`, `dictionary_learning:PATH`, `sparsify:PATH` and `circuit_tracer:PATH` read the
    files of that library and return an equivalent dictionary; `sites` override the hook points in
    the files. Without a prefix, `path` is a folder written by `save`, and `kinds` are the config
    classes of custom kinds.

    Raises:
        CorruptFileError: a file is absent, truncated, or does not fit its config.
        InputError: there is no such folder, or one of several dictionaries, which `load_all`
            reads; the format or the kind is unknown, or no kind here is equivalent.
        NonFiniteError: a weight is NaN or infinite.
    """
    prefixed = None if Path(path).exists() else _PREFIXED.fullmatch(str(path))
    if prefixed is not None:
        format, theirs = _format(prefixed[1]), Path(prefixed[2])
        with entries_of(theirs if theirs.is_dir() else theirs.parent):
            dictionary = format.read(theirs, sites)
        files.require_finite_weights(dictionary, theirs)
        return dictionary
    if sites is not None:
        raise InputError(
            f"{path}: a dictionary that save() wrote knows its sites; sites= is for files of other "
            "libraries, whose path starts with the format's name, as in 'saelens:PATH'"
        )
    return files.load(path, kinds)


def save(dictionary: FeatureDictionary, path: str | Path, *, format: str | None = None) -> Path:
    """Write `dictionary` to the folder `path`, and return the path to load it from.

    With `format` ("saelens", "dictionary_learning", "sparsify" or "circuit_tracer") it is written
    for that library, with means and scales folded into the weights. Training state and config are
    not included, so keep a copy in the format of this package.

    Raises:
        InputError: the format is unknown or cannot represent the dictionary, it has no `config`, or
            the folder is one of activations, of a dictionary or of a report.
        StorageError: the folder cannot be written.
    """
    if format is None:
        return files.save(dictionary, path)
    written = _format(format)
    require_apart(Path(path), EXPORTED)
    return written.write(dictionary, Path(path))


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"unknown format {name!r}; {nearest(name, FORMATS)}")
    return FORMATS[name]
