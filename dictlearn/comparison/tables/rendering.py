"""Tables rendered for a terminal, as Markdown and as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

from rich import box
from rich import table as rich_table
from rich.text import Text

from dictlearn.comparison.tables.description import Cell, Table


def as_terminal(table: Table) -> rich_table.Table:
    """The table for a terminal, with its title and caption and a space between groups."""
    drawn = terminal_table(table.title, table.caption)
    for column in table.columns:
        if column.numeric:
            drawn.add_column(column.short, justify="right", no_wrap=True)
        else:
            drawn.add_column(column.short, overflow="fold", max_width=28)
    for group in table.groups:
        for row in group:
            drawn.add_row(*(Text(cell.text) for cell in row))
        drawn.add_section()
    return drawn


def as_markdown(table: Table) -> str:
    """The table in Markdown, without title and caption."""
    heads = [column.heading for column in table.columns]
    return markdown_table(heads, [[cell.text for cell in row] for row in table.rows])


def as_html(table: Table) -> str:
    """The table in HTML, without title and caption."""
    texts = ["" if column.numeric else "text" for column in table.columns]
    headings = [
        f'<th class="{css}">{escape(column.heading)}</th>'
        for css, column in zip(texts, table.columns, strict=True)
    ]
    rows = [
        f"<tr>{''.join(map(_html_cell, row, texts))}</tr>"
        for row in table.rows
    ]  # fmt: skip
    return html_table(headings, rows)


def terminal_table(title: str, caption: str) -> rich_table.Table:
    """An empty table for a terminal."""
    return rich_table.Table(
        title=Text(title, style="bold"), caption=Text(caption, style="dim"), box=box.SIMPLE_HEAD,
        title_justify="left", caption_justify="left", pad_edge=False, collapse_padding=True,
    )  # fmt: skip


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; bars and line breaks in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", "<br>") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def html_table(headings: list[str], rows: list[str]) -> str:
    """A table in a box that scrolls; headings and rows are HTML elements."""
    head = f"<thead><tr>{''.join(headings)}</tr></thead>"
    body = "\n".join(rows)
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _html_cell(cell: Cell, css: str) -> str:
    lines = "<br>".join(map(escape, cell.text.split("\n")))
    return f'<td class="{css}" title="{escape(cell.hover)}">{lines}</td>'
