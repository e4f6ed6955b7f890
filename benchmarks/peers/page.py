"""A Markdown page made of sections, and the tables in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_HEADING = "## "


@dataclass
class Table:
    """Some results: a caption, columns, rows of text, and notes that must be read with them."""

    caption: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append a row with one cell a column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"required {len(self.columns)} cells, got {len(cells)}: {cells}")
        self.rows.append(cells)

    def markdown(self) -> str:
        """The table for a Markdown page; bars in cells are escaped."""
        lines = [f"**{self.caption}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", *(f"* {note}" for note in self.notes)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Section:
    """One part of the page under a heading of its own."""

    title: str
    body: str

    def markdown(self) -> str:
        """The section as it stands on the page."""
        return f"{_HEADING}{self.title}\n\n{self.body.strip()}\n"


def page(head: str, sections: Iterable[Section]) -> str:
    """The whole page: what stands before the first section, then the sections."""
    return "\n".join([head.strip() + "\n", *(section.markdown() for section in sections)])


def sections_of(text: str) -> list[Section]:
    """The sections of a page that `page` made."""
    parts = ("\n" + text).split("\n" + _HEADING)[1:]
    found = []
    for part in parts:
        title, _, body = part.partition("\n")
        found.append(Section(title.strip(), body.strip()))
    return found


def with_new(old: Iterable[Section], new: Iterable[Section], order: Sequence[str]) -> list[Section]:
    """The sections of `new`, and those of `old` that were not measured again, in `order`, which
    gives the beginnings of titles."""
    latest = {section.title: section for section in [*old, *new]}
    return [latest[title] for start in order for title in sorted(latest) if title.startswith(start)]


def renew(path: Path, head: str, section: Section, order: Sequence[str]) -> None:
    """Write the section to the page at `path`, in the place of the one that it renews."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = sections_of(path.read_text("utf-8")) if path.exists() else []
    path.write_text(page(head, with_new(old, [section], order)), encoding="utf-8")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
