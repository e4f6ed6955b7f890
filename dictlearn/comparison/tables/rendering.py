"""Tables rendered for a terminal."""

from rich import box
from rich import table as rich_table
from rich.text import Text

from dictlearn.comparison.tables.description import Table


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


def terminal_table(title: str, caption: str) -> rich_table.Table:
    """An empty table for a terminal."""
    return rich_table.Table(
        title=Text(title, style="bold"), caption=Text(caption, style="dim"), box=box.SIMPLE_HEAD,
        title_justify="left", caption_justify="left", pad_edge=False, collapse_padding=True,
    )  # fmt: skip
