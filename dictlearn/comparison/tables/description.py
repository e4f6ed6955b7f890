"""A table as data: columns and cells of text, without a medium."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import compress

from dictlearn.comparison.vocabulary import MISSING

SHORT: Mapping[str, str] = {
    "cross_entropy_spliced": "CE\nspliced",
    "loss_recovered_zero": "LR\nzero",
    "loss_recovered_mean": "LR\nmean",
    "top1_agreement": "top-1",
    "support_bits": "support\nbits",
    "coefficient_bits": "coefficient\nbits",
}
"""Column headings for narrow tables, by metric; the caption explains them."""


@dataclass(frozen=True)
class Column:
    """The heading of a column, a shorter one for terminals, and whether it holds numbers."""

    heading: str
    short: str
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """The text of a cell, which may have several lines, and a note shown on hover."""

    text: str
    hover: str = ""
    link: str = ""
    """The anchor on a page that the text leads to."""


@dataclass(frozen=True)
class Table:
    """Rows in groups, under columns."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]

    def without_empty(self) -> "Table":
        """The table without those columns in which no cell has a value."""
        full = [
            any(cell.text not in ("", MISSING) for cell in c) for c in zip(*self.rows, strict=True)
        ]
        groups = tuple(tuple(tuple(compress(row, full)) for row in group) for group in self.groups)
        return replace(self, columns=tuple(compress(self.columns, full)), groups=groups)

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The rows of all groups."""
        return [row for group in self.groups for row in group]

    @property
    def headings(self) -> list[str]:
        """The headings of the columns."""
        return [column.heading for column in self.columns]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of the cells of every row."""
        return [[cell.text for cell in row] for row in self.rows]
