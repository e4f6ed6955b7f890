"""The supported formats. A new format needs one file and one line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Sites
from dictlearn.interop import circuit_tracer, dictionary_learning, saelens, sparsify


@dataclass(frozen=True)
class Format:
    """Reader and writer of the files of one library."""

    read: Callable[[Path, Sites | None], FeatureDictionary]
    """The dictionary at a path; sites, if given, override those that the files name."""
    write: Callable[[FeatureDictionary, Path], Path]
    """Writes a dictionary into a folder, and returns the path to read it from."""


FORMATS: Mapping[str, Format] = {
    "saelens": Format(saelens.read, saelens.write),
    "dictionary_learning": Format(dictionary_learning.read, dictionary_learning.write),
    "sparsify": Format(sparsify.read, sparsify.write),
    "circuit_tracer": Format(circuit_tracer.read, circuit_tracer.write),
}
