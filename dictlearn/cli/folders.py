"""Commands about dictionaries in folders: how they were trained, their features, other formats."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dictlearn.cli import options
from dictlearn.cli.terminal import console, numbers, say
from dictlearn.cli.terminal import show as show_records
from dictlearn.core.errors import InputError

_TOKENS = options.TokenCount(100_000, at_most=True)
CARDS_PAGE = "features.html"


def info(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of dictionaries, folders that contain them, activations, or results."
        ),
    ],
) -> None:
    """Show what a folder holds: dictionaries and how they were trained, activations, or results.

    L0, FVU and dead features are those of the last batch of training.
    """
    from dictlearn.activations.manifest import MANIFEST_FILE
    from dictlearn.dictionaries.files import dictionaries_in
    from dictlearn.records.results import RESULTS_FILE

    left: list[Path] = []
    for path in paths:
        if (path / MANIFEST_FILE).exists():
            _show_store(path)
        elif (path / RESULTS_FILE).exists() and not dictionaries_in(path):
            _show_results(path)
        else:
            left.append(path)
    if left:
        show_dictionaries(left)


def _show_store(path: Path) -> None:
    from dictlearn.activations.store import ActivationStore

    store = ActivationStore.open(path)
    origin = store.provenance
    say(f"{path}: {store.n_rows:,} rows in {str(store.dtype).removeprefix('torch.')}")
    say(f"  model    {origin.model or 'unknown'}")
    said = {"text": "source", "split": "split", "context": "context"}
    for label, key in said.items():
        say(f"  {label:<8} {store.tokens.get(key, 'unknown')}")
    for sites in store.sites:
        say(f"  sites    {sites}")


def _show_results(path: Path) -> None:
    from dictlearn.comparison.report.html import REPORT_FILE
    from dictlearn.records.results import Records

    records = Records.load(path)
    say(f"{path}: results of an evaluation or a report, and no dictionary")
    if (path / REPORT_FILE).exists():
        say(f"  report   {path / REPORT_FILE}")
    show_records(records)


def show_dictionaries(paths: list[Path]) -> None:
    """Print a table of the dictionaries in folders, and of how each was trained."""
    from dictlearn.comparison.tables.terminal import terminal_table
    from dictlearn.dictionaries.overview import overview

    frame = overview(paths)
    shared = [
        name
        for name in ("model", "text", "context", "hooks", "steps", "batch_size", "rows", "seed")
        if frame[name].nunique(dropna=False) == 1
    ]  # fmt: skip
    told = {name: frame[name].iloc[0] for name in shared}
    caption = "; ".join(f"{k} {v}" for k, v in told.items() if v not in ("", None))
    if not frame["l0"].isna().all():
        caption += "\nl0, fvu and dead are in-sample: those of the last batch of training"
    table = terminal_table("Dictionaries", caption)
    frame = frame.drop(columns=shared).dropna(axis="columns", how="all").reset_index()
    for name in frame.columns:
        table.add_column(name, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(_cell(value)) for value in row))
    console.print(table)


def _cell(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show(
    dictionaries: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of dictionaries; those after the first are searched for similar features."
        ),
    ],
    features: Annotated[
        str | None, typer.Option(help="Features of the first, such as 3,17,40.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text whose strongest features are shown instead.")
    ] = None,
    n_features: Annotated[
        int, typer.Option("--strongest", help="With --prompt, features of each dictionary.")
    ] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the cards, and for a page of them.")
    ] = None,
    tokens: Annotated[
        options.TokenCount, options.token_count("Tokens that are searched for contexts.")
    ] = _TOKENS,
    split: options.Split = "held_out",
    model: options.ModelOfDictionaries = None,
    check_model: options.CheckModel = True,
    device: options.Device = None,
    model_dtype: options.ModelDtype = "float32",
    text: options.TextOfDictionaries = None,
    context: options.Context = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Show cards of features, or the features that are active on a prompt.

    A card has the contexts of the largest activations, the tokens that the feature promotes, and
    similar features. Model, text and how it is read are those of the training, unless others are
    given.
    """
    from dictlearn.active_features import activating
    from dictlearn.cli.origins import model_of, origin
    from dictlearn.cli.reading import reading
    from dictlearn.cli.results import results_in
    from dictlearn.cli.subject import beside, loaded
    from dictlearn.comparison.report.cards import cards_page
    from dictlearn.core.folder_sorts import RESULTS, require_apart
    from dictlearn.core.own_files import OwnFiles
    from dictlearn.dictionaries.files import load_all
    from dictlearn.feature_cards import show as cards
    from dictlearn.records.features import FEATURES_FILE

    if (features is None) == (prompt is None) or (prompt is not None and out is not None):
        raise InputError("required either --features, with or without --out, or --prompt")
    if n_features < 1 or prompt == "":
        raise InputError("required --strongest of at least 1, and a --prompt that is not empty")
    chosen = [] if features is None else numbers(features, "--features")
    named = load_all(dictionaries)
    if out is not None:
        require_apart(out, RESULTS)
        results_in(out, [FEATURES_FILE, CARDS_PAGE], overwrite=overwrite)
    if prompt is not None:  # it needs no text, which the dictionaries may not know
        name = model_of(named, model)
        subject = loaded(name, check=check_model, device=device, dtype=model_dtype)
        own = beside(subject, named)
        say(repr(activating(own, subject, prompt, n_features=n_features)))
        return
    found = origin(named, model, text, context=context)
    read = reading(found.text, split, tokens, **found.settings)
    subject = loaded(found.model, check=check_model, device=device, dtype=model_dtype)
    own = beside(subject, named)
    shown = cards(own, chosen, subject, read(subject), exclude_special=found.exclude_special)
    say(repr(shown))
    if out is not None:
        shown.records.save(out)
        OwnFiles.of(out).write_text(CARDS_PAGE, cards_page(shown.records))
        say(f"cards: {out / CARDS_PAGE}")


def export(
    dictionary: Annotated[Path, typer.Argument(help="Folder of a dictionary.")],
    format: Annotated[
        str, typer.Option(help="saelens, dictionary_learning, sparsify or circuit_tracer.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    overwrite: options.Overwrite = False,
) -> None:
    """Write a dictionary in the format of another library.

    Means and scales are folded into its weights, and the training settings stay behind.
    """
    from dictlearn.cli.results import require_none
    from dictlearn.core.own_files import OwnFiles
    from dictlearn.formats import load, save
    from dictlearn.interop.files import EXPORT

    own, there = OwnFiles(out, EXPORT), os.listdir(out) if out.is_dir() else []
    require_none(own, filter(own.lists, there), overwrite=overwrite)
    say(f"{format}: {save(load(dictionary), out, format=format)}")


def import_(
    source: Annotated[str, typer.Argument(help="FORMAT:PATH, such as saelens:PATH.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    overwrite: options.Overwrite = False,
) -> None:
    """Read a dictionary of another library, and save it in the format of this one.

    Formats are saelens, dictionary_learning, sparsify and circuit_tracer.
    """
    from dictlearn.cli.results import require_none
    from dictlearn.core.own_files import OwnFiles
    from dictlearn.dictionaries.files import CONFIG_FILE
    from dictlearn.formats import load, save

    require_none(OwnFiles(out, "saving a dictionary"), [CONFIG_FILE], overwrite=overwrite)
    found = load(source)
    say(f"{found!r}: {save(found, out)}")
