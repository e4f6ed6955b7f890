"""`python -m tests.fuzz`: damages samples of every kind of file, and counts what readers do."""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.fuzz.readers import READERS
from tests.fuzz.run import OUTCOMES, Count, fuzz

console = Console(width=None if Console().is_terminal else 200)


def main(
    mutations: Annotated[int, typer.Option(envvar="MUTATIONS", help="For each reader.")] = 5000,
    reader: Annotated[list[str] | None, typer.Option(help="Of all by default.")] = None,
    seed: int = 0,
    only: Annotated[int | None, typer.Option(help="The number of a single mutation.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder for the files of failures.")] = None,
) -> None:
    """Damage samples of the files of every reader, and count what the readers make of them."""
    torch.set_num_threads(1)
    names = reader or list(READERS)
    indices = range(mutations) if only is None else range(only, only + 1)
    counts: dict[str, Count] = {}
    columns = TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        for name in names:
            task = bar.add_task(name, total=len(indices))
            with tempfile.TemporaryDirectory() as folder:
                count = fuzz(name, READERS[name], Path(folder), indices, seed, keep,
                             lambda task=task: bar.advance(task))  # fmt: skip
            counts[name] = count
    table = Table("reader", *OUTCOMES, "failures", title=f"seed {seed}")
    for name, count in counts.items():
        numbers = [count.outcomes[outcome] for outcome in OUTCOMES]
        table.add_row(name, *(f"{n:,}" for n in (*numbers, len(count.failures))))
    for name, count in counts.items():
        for told in count.failures[:20]:
            console.print(f"{name}: {told}", markup=False, highlight=False)
    console.print(table)
    raise typer.Exit(any(count.failures for count in counts.values()))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
