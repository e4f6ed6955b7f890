"""What the commands share: the terminal, options, and how results are shown."""

import os
from typing import Annotated, Any

import typer
from rich.console import Console

from dictlearn.core.errors import InputError
from dictlearn.records.results import Records

console = Console()
if not console.is_terminal:  # a log or a pipe has no width: leave tables whole
    console = Console(width=max(console.width, 130))
console.quiet = os.environ.get("RANK", "0") != "0"  # torchrun: the first process speaks for all

ModelName = Annotated[
    str, typer.Option("--model", help="builtin:stories, a Hugging Face id, or such a folder.")
]
TextSource = Annotated[
    str,
    typer.Option(
        "--text",
        help="builtin:stories, a .txt/.jsonl/.parquet file (or a folder of them), or hf:DATASET.",
    ),
]
WholeDocuments = Annotated[
    bool, typer.Option(help="Never open a block in the middle of a document; fill blocks up.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace what is there.")]


def show(records: Records) -> None:
    """Print the tables of `records`."""
    from dictlearn.comparison.tables.terminal import tables

    console.print(*tables(records))


def leftover_fields(arguments: list[str]) -> dict[str, Any]:
    """Leftover `--some-field value` pairs as config fields."""
    from dictlearn.config_files import parse_value

    fields = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if not flag.startswith("--") or (not equals and not queue):
            raise InputError(f"required --field value, got {flag!r} without one")
        fields[flag[2:].replace("-", "_")] = parse_value(value if equals else queue.pop(0))
    return fields
