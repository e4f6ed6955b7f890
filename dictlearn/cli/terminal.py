"""Terminal output and options that several commands share."""

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
    str, typer.Option("--model", help="builtin:stories, a Hugging Face id, or a local folder.")
]
CheckModel = Annotated[
    bool,
    typer.Option(help="Compare the logits of a few tokens with the Hugging Face original."),
]
TextSource = Annotated[
    str,
    typer.Option(
        "--text",
        help="builtin:stories, a .txt, .jsonl or .parquet file, a folder of these, or hf:DATASET.",
    ),
]
Column = Annotated[
    str, typer.Option(help="Column of text, or of messages for the chat template, in tables.")
]
IdsColumn = Annotated[str | None, typer.Option(help="Column of token ids to read instead of text.")]
DatasetSplit = Annotated[
    str | None, typer.Option(help="Split of a data set with several; by default train.")
]
ControlTokens = Annotated[
    bool, typer.Option(help="Read special tokens that are spelled out in the text as such.")
]
Separator = Annotated[
    str | None, typer.Option(help="Token before each document; by default BOS, else EOS.")
]
WholeDocuments = Annotated[
    bool, typer.Option(help="Do not split documents between blocks; pad blocks instead.")
]
Overwrite = Annotated[
    bool, typer.Option(help="Replace the files of an earlier run in the output folder.")
]
Context = Annotated[
    int | None, typer.Option(help="Tokens per block; by default the model's context, at most 1024.")
]
Split = Annotated[str, typer.Option(help="Split of the text: train or held_out.")]
IncludeSpecial = Annotated[bool, typer.Option(help="Include special tokens (BOS, EOS, padding).")]
Seed = Annotated[int, typer.Option(help="Random seed of the data order and of the dictionaries.")]


def say(text: str) -> None:
    """Print `text` as it is: brackets are not markup, and numbers are not highlighted."""
    console.print(text, highlight=False, markup=False)


def show(records: Records) -> None:
    """Print the tables of `records`."""
    from dictlearn.comparison.tables.terminal import tables

    console.print(*tables(records))


def leftover_fields(arguments: list[str]) -> dict[str, Any]:
    """Config fields from the remaining `--some-field value` pairs."""
    from dictlearn.config_files import parse_value

    fields = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if not flag.startswith("--") or (not equals and not queue):
            raise InputError(f"required --field value, got {flag!r} without one")
        fields[flag[2:].replace("-", "_")] = parse_value(value if equals else queue.pop(0))
    return fields
