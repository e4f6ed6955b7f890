"""The command that makes a report on dictionaries."""

from pathlib import Path
from typing import Annotated

import typer

from dictlearn.cli import options
from dictlearn.cli.terminal import say, show
from dictlearn.core.errors import InputError

_TOKENS = options.TokenCount(40_000, at_most=True)
_PARTS = "metrics,bits,concepts,agreement,cards"
_DOCUMENT_TOKENS = 20_000
"""Most tokens that concepts are looked for in."""


def report(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders that contain them.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for report.html and the records.")],
    parts: Annotated[
        str,
        typer.Option(
            help="Parts to add, of bits, concepts, agreement and cards, with commas between; the "
            "metrics are always there.",
            show_default="all",
        ),
    ] = _PARTS,
    cards: Annotated[int, typer.Option(help="Number of feature cards of each dictionary.")] = 6,
    title: Annotated[str | None, typer.Option(help="Title of the report.")] = None,
    model: options.ModelOfDictionaries = None,
    check_model: options.CheckModel = True,
    device: options.Device = None,
    model_dtype: options.ModelDtype = "float32",
    text: options.TextOfDictionaries = None,
    column: options.ColumnOfDictionaries = None,
    ids_column: options.IdsColumn = None,
    dataset_split: options.DatasetSplit = None,
    control_tokens: options.ControlTokensOfDictionaries = None,
    separator: options.Separator = None,
    tokens: Annotated[
        options.TokenCount, options.token_count("Number of tokens to evaluate on.")
    ] = _TOKENS,
    split: options.Split = "held_out",
    context: options.Context = None,
    include_special: options.IncludeSpecialOfDictionaries = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Also take dictionaries that were trained on another model.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure all that can be said about dictionaries, and write a report.

    Metrics, bits per token, detection of concepts, similarity of features and feature cards, with
    the training curves. Model, text and how it is read are those of the training, unless others are
    given.
    To continue an interrupted report, or to add parts to it, repeat the command.
    """
    from dictlearn.cli.origins import origin
    from dictlearn.cli.reading import reading
    from dictlearn.cli.subject import loaded
    from dictlearn.comparison.report.html import DEFAULT_TITLE
    from dictlearn.dictionaries.files import described, folders_of
    from dictlearn.reporting import Part, own_files, parts_named
    from dictlearn.reporting import report as run

    chosen = parts_named(parts, "--parts")
    if cards < 1:
        raise InputError(f"required --cards of at least 1, got {cards}")
    known = {name: described(folder) for name, folder in folders_of(dictionaries).items()}
    found = origin(
        known, model, text, context=context, column=column, ids_column=ids_column,
        dataset_split=dataset_split, control_tokens=control_tokens, separator=separator,
        include_special=include_special,
    )  # fmt: skip
    own_files(out)  # before the model is loaded
    read = reading(found.text, split, tokens, **found.settings)
    subject = loaded(found.model, check=check_model, device=device, dtype=model_dtype)
    blocks, documents = read(subject), None
    if Part.CONCEPTS in chosen:
        few = min(tokens.n or _DOCUMENT_TOKENS, _DOCUMENT_TOKENS)
        documents = read(subject, n_tokens=few, at_most=True, whole_documents=True)
    made = run(
        dictionaries, subject, blocks, out=out, parts=chosen, documents=documents, n_cards=cards,
        title=title or DEFAULT_TITLE, exclude_special=found.exclude_special,
        allow_other_model=allow_other_model, overwrite=overwrite,
    )  # fmt: skip
    show(made.metrics)
    for part, reason in made.left_out.items():
        say(f"left out, {part.value}: {reason}")
    say(f"report: {made.path}")
