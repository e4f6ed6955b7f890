"""Options that several commands share."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class TokenCount:
    """The tokens that a command reads of a text; None for all that there are."""

    n: int | None
    at_most: bool = False
    """Whether a text that holds fewer is read whole: where no number was asked for."""

    def __str__(self) -> str:
        return f"{self.n}, or all of a shorter text" if self.at_most else str(self.n or "all")


def _token_count(given: str | TokenCount) -> TokenCount:
    if isinstance(given, TokenCount):  # the default
        return given
    if given != "all" and not given.replace("_", "").removeprefix("-").isdecimal():
        raise typer.BadParameter(f"required a whole number, or all; got {given!r}")
    return TokenCount(None if given == "all" else int(given))


def token_count(help: str) -> Any:
    """An option that is a number of tokens or "all"."""
    return typer.Option(parser=_token_count, metavar="NUMBER|all", help=help)


def _number_or_none(text: str) -> float | None:
    from dictlearn.config_files import parse_value

    found = parse_value(text)
    if found is not None and type(found) not in (int, float):
        raise typer.BadParameter(f"required a number or none, got {text!r}")
    return found


def number_or_none(help: str) -> Any:
    """An option that is a number or "none"."""
    return typer.Option(parser=_number_or_none, metavar="NUMBER", help=help)


ModelName = Annotated[
    str, typer.Option("--model", help="builtin:stories, a Hugging Face id, or a local folder.")
]
ModelOfDictionaries = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="builtin:stories, a Hugging Face id, or a local folder; by default that of the "
        "dictionaries.",
    ),
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
TextOfDictionaries = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="builtin:stories, a .txt, .jsonl or .parquet file, a folder of these, or hf:DATASET; "
        "by default that on which the dictionaries were trained.",
    ),
]
Column = Annotated[
    str, typer.Option(help="Column of text, or of messages for the chat template, in tables.")
]
ColumnOfDictionaries = Annotated[
    str | None,
    typer.Option(
        "--column",
        help="Column of text, or of messages for the chat template, in tables; by default as in "
        "the training, if the text is that of the training.",
    ),
]
IdsColumn = Annotated[str | None, typer.Option(help="Column of token ids to read instead of text.")]
DatasetSplit = Annotated[
    str | None, typer.Option(help="Split of a data set with several; by default train.")
]
ControlTokens = Annotated[
    bool, typer.Option(help="Read special tokens that are spelled out in the text as such.")
]
ControlTokensOfDictionaries = Annotated[
    bool | None,
    typer.Option(
        help="Read special tokens that are spelled out in the text as such; by default as in the "
        "training, if the text is that of the training.",
    ),
]
Separator = Annotated[
    str | None, typer.Option(help="Token before each document; by default BOS, else EOS.")
]
WholeDocuments = Annotated[
    bool, typer.Option(help="Do not split documents between blocks; pad blocks instead.")
]
WholeDocumentsOfDictionaries = Annotated[
    bool | None,
    typer.Option(
        help="Do not split documents between blocks; pad blocks instead; by default as in the "
        "training, if the text is that of the training.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option(help="Replace the files of an earlier run in the output folder.")
]
Context = Annotated[
    int | None, typer.Option(help="Tokens per block; by default the model's context, at most 1024.")
]
Split = Annotated[
    str, typer.Option(help="Split of the text: train, held_out, or all for every document.")
]
IncludeSpecial = Annotated[bool, typer.Option(help="Include special tokens (BOS, EOS, padding).")]
IncludeSpecialOfDictionaries = Annotated[
    bool | None,
    typer.Option(
        help="Include special tokens (BOS, EOS, padding); by default if the training did.",
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default the GPU if there is one.")
]
ModelDtype = Annotated[
    str, typer.Option(help="Precision of the model: float32, bfloat16 or float16.")
]
Seed = Annotated[int, typer.Option(help="Random seed of the data order and of the dictionaries.")]
