"""Saving, loading and showing of records, the same for every kind of result."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dictlearn.core.errors import InputError
from dictlearn.core.files import entries_of, read_own_json, typed
from dictlearn.core.metric import Metric
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance

if TYPE_CHECKING:
    import pandas as pd


FORMER_BASELINES = frozenset({"neurons", "identity", "mean", "random", "pca", "ica", "kmeans"})
"""The baselines among the kinds of files written before records said so themselves."""


R = TypeVar("R", bound="SavedRecords")


@dataclass(frozen=True)
class _Tokens:
    """The types of what records say about tokens and settings; any entry may be absent."""

    source: str = ""
    split: str = ""
    hash: str = ""
    n_tokens: int = 0
    n_sequences: int = 0
    context: int = 0
    exclude_special: bool = True
    seed: int | None = None
    resample_seed: int | None = None
    n_scored_sequences: int = 0
    chosen: str = ""
    shortcuts: list[str] = field(default_factory=list)


@dataclass(frozen=True, repr=False)
class SavedRecords(ABC):
    """Results measured on tokens of one model, and saved as one JSON file in a folder.

    A kind of result names its file and how to make it again, and supplies `_entries` and
    `_from_entries`. JSON has no `nan`: a number that is undefined is
    null in the file, and `nan` with a reason beside it in memory.
    """

    file: ClassVar[str]
    """The name of the JSON file."""
    kind: ClassVar[str]
    """The name of the format in messages."""
    remake: ClassVar[str]
    """Advice to the reader of a file of another version, in the imperative."""
    maker: ClassVar[str]
    """The function that makes them."""

    provenance: Provenance
    """The model and the tokens."""
    tokens: dict[str, Any]
    """The description of the tokens (`Tokens.describe`) and the settings of the measurement."""

    @abstractmethod
    def to_pandas(self) -> "pd.DataFrame":
        """The results as a table."""

    @abstractmethod
    def _entries(self) -> dict[str, Any]:
        """The results as plain data, after the entries that all kinds share."""

    @classmethod
    @abstractmethod
    def _from_entries(
        cls: type[R],
        provenance: Provenance,
        tokens: dict[str, Any],
        data: dict[str, Any],
        folder: Path,
    ) -> R:
        """The records whose `_entries` are among `data`, saved in `folder`."""

    @abstractmethod
    def _in_words(self) -> str:
        """The content, in a few words."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._in_words()})"

    @classmethod
    def require(cls, given: object) -> None:
        """Check that an argument is records of this kind.

        Raises:
            InputError: it is not.
        """
        if not isinstance(given, cls):
            raise InputError(
                f"required {cls.__name__}, as {cls.maker}(dictionaries, model, tokens) returns, "
                f"got {type(given).__name__}"
            )

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html()

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write the records to `folder`; the path of their JSON file.

        Raises:
            InputError: there is such a file, and it is not one that was saved there.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder)
        shared = {
            "model": self.provenance.model,
            "tokens": self.tokens,
            "provenance": self.provenance.to_dict(),
        }
        own.write_json(self.file, shared | self._entries() | self._write_tensors(own))
        return own.path / self.file

    def _write_tensors(self, own: OwnFiles) -> dict[str, Any]:
        """Write what belongs to the records beside their JSON; entries that name it."""
        return {}

    @classmethod
    def load(cls: type[R], folder: str | Path) -> R:
        """The records in `folder`, or in the folder of the JSON file named.

        Raises:
            CorruptFileError: a file is absent, truncated or of another format.
        """
        path = Path(folder)
        path = path if path.suffix == ".json" else path / cls.file
        data = read_own_json(path, cls.kind, cls.remake)
        with entries_of(path):
            provenance = Provenance.from_dict(data["provenance"])
            tokens = data["tokens"]
            typed(tokens, _Tokens)
            return cls._from_entries(provenance, tokens, data, path.parent)


def listed(names: Iterable[str], n: int = 6) -> str:
    """The names, of which there may be too many for a line.

    >>> listed(["sae", "pca"]), listed("abc", 2), listed([])
    ('sae, pca', 'a, b and 1 more', 'none')
    """
    every = list(names)
    more = f" and {len(every) - n} more" if len(every) > n else ""
    return f"{', '.join(every[:n]) or 'none'}{more}"


def without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with None in the place of every `nan`, in its lists as well.

    >>> without_nan({"a": math.nan, "b": [1.0, math.nan]})
    {'a': None, 'b': [1.0, None]}
    """
    return _replaced(entry, lambda x: isinstance(x, float) and math.isnan(x), None)


def with_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with `nan` in the place of every None, in its lists as well.

    >>> with_nan({"a": None, "b": [1.0, None]})
    {'a': nan, 'b': [1.0, nan]}
    """
    return _replaced(entry, lambda x: x is None, math.nan)


def metric_to_json(metric: Metric) -> dict[str, Any]:
    """The metric as plain data: its value, or null with the reason.

    >>> metric_to_json(Metric(math.nan, "no rows were counted"))
    {'value': None, 'reason': 'no rows were counted'}
    """
    if math.isfinite(metric.value):
        return {"value": metric.value}
    return {"value": None, "reason": metric.reason or f"not finite: {metric.value}"}


def metric_from_json(entry: Mapping[str, Any]) -> Metric:
    """The metric that `metric_to_json` wrote."""
    return typed(with_nan(entry), Metric)


def _replaced(
    entry: Mapping[str, Any], chosen: Callable[[Any], bool], value: float | None
) -> dict[str, Any]:
    def replaced(x: Any) -> Any:
        return value if chosen(x) else x

    return {
        key: [replaced(item) for item in x] if isinstance(x, list) else replaced(x)
        for key, x in entry.items()
    }
