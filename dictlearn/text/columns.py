"""The column of a table that holds documents: texts, token ids or messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dictlearn.core.errors import InputError

Messages: TypeAlias = list[dict[str, Any]]
Document: TypeAlias = str | list[int] | Messages
"""A text, its token ids, or the messages of a conversation."""

TEXT = "text"


@dataclass
class Column:
    """A column of documents, read row by row; rows without a document are counted."""

    name: str = TEXT
    holds_ids: bool = False
    """Whether it holds token ids instead of texts or messages."""
    n_read: int = 0
    n_skipped: int = 0
    """Rows that were null, empty or blank."""

    def of(self, table: str, row: tuple[int, Any]) -> Document | None:
        """The document in a numbered row, None if it is empty, or an `InputError`."""
        number, entry = row
        if isinstance(entry, Mapping) and self.name not in entry:
            raise InputError(
                f"{table}, row {number}: required a column {self.name!r}, got "
                f"{', '.join(map(str, entry))}; name one of these (column=, --column)"
            )
        value = entry[self.name] if isinstance(entry, Mapping) else entry
        value = value.tolist() if hasattr(value, "tolist") else value
        self.n_read += 1
        if value is None or (isinstance(value, str | list) and not value) or _is_blank(value):
            self.n_skipped += 1
            return None
        if _are_ids(value) if self.holds_ids else isinstance(value, str) or _are_messages(value):
            return value
        wanted = "token ids (a list of whole numbers)" if self.holds_ids else "text or messages"
        advice = (
            "name a column of text with column= (--column)"
            if self.holds_ids
            else "name another column, or a column of token ids with ids_column= (--ids-column)"
        )
        raise InputError(
            f"{table}, row {number}: required {wanted} in column {self.name!r}, got "
            f"{type(value).__name__} {value!r:.60}; {advice}"
        )


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and value.isspace()


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(i) is int for i in value)


def _are_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in value
    )
