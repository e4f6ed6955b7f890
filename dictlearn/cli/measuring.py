"""Commands from dictionaries to results."""

from pathlib import Path
from typing import Annotated

import typer

from dictlearn.cli.terminal import ModelName, TextSource, WholeDocuments, console, show
from dictlearn.core.own_files import OwnFiles


def evaluate(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders of such folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")],
    model: ModelName = "builtin:stories",
    text: TextSource = "builtin:stories",
    tokens: Annotated[int, typer.Option(help="Tokens to evaluate on.")] = 40_000,
    split: Annotated[str, typer.Option(help="train or held_out.")] = "held_out",
    context: Annotated[int | None, typer.Option(help="Tokens a block; the model's own.")] = None,
    whole_documents: WholeDocuments = False,
    include_special: Annotated[bool, typer.Option(help="Count special tokens too.")] = False,
    bits: Annotated[bool, typer.Option(help="Price coefficients: 4 more passes.")] = False,
) -> None:
    """Measure dictionaries side by side on the same held-out tokens."""
    from dictlearn.comparison.report.html import REPORT_FILE, report_html
    from dictlearn.dictionaries.files import load_all
    from dictlearn.evaluation.faithfulness.evaluate import evaluate as run
    from dictlearn.lm.loading import load_model
    from dictlearn.records.results import RESULTS_FILE, SUMS_FILE
    from dictlearn.text.tokens import load_tokens

    loaded = load_all(dictionaries)
    own = OwnFiles.of(out)
    own.require(RESULTS_FILE, SUMS_FILE, REPORT_FILE)
    subject = load_model(model)
    blocks = load_tokens(
        text, subject, split=split, n_tokens=tokens, context=context,
        whole_documents=whole_documents,
    )  # fmt: skip
    records = run(loaded, subject, blocks, exclude_special=not include_special, bits=bits)
    records.save(own)
    own.write_text(REPORT_FILE, report_html(records))
    show(records)
    console.print(f"results: {out / RESULTS_FILE}\nreport:  {out / REPORT_FILE}", highlight=False)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders with results.json.")],
    out: Annotated[
        Path | None, typer.Option(help="Write a report of all runs: an HTML file, or its folder.")
    ] = None,
) -> None:
    """Put the results of several runs in one table; refuses runs that are not comparable."""
    from dictlearn.comparison.report.html import REPORT_FILE, write_report
    from dictlearn.comparison.runs import combine, load_run

    names = [path.name if path.suffix != ".json" else path.parent.name for path in runs]
    if len(set(names)) < len(names):
        names = [str(path) for path in runs]
    records = combine({n: load_run(path) for n, path in zip(names, runs, strict=True)})
    show(records)
    if out is not None:
        path = out if out.suffix and not out.is_dir() else out / REPORT_FILE
        console.print(f"report: {write_report(records, path)}", highlight=False)
