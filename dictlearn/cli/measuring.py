"""Commands that evaluate dictionaries and compare results."""

from pathlib import Path
from typing import Annotated

import typer

from dictlearn.cli import options
from dictlearn.cli.terminal import console, say, show

_TOKENS = options.TokenCount(40_000, at_most=True)


def evaluate(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders that contain them.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for results.json and report.html.")],
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
    whole_documents: options.WholeDocumentsOfDictionaries = None,
    include_special: options.IncludeSpecialOfDictionaries = None,
    bits: Annotated[bool, typer.Option(help="Bits per token; up to 6 more passes.")] = False,
    together: Annotated[
        bool,
        typer.Option(
            help="Also the model with all dictionaries in place, and all but each, in joint.json; "
            "they need different targets."
        ),
    ] = False,
    allow_other_model: Annotated[
        bool, typer.Option(help="Also evaluate dictionaries that were trained on another model.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Evaluate dictionaries on the same held-out tokens.

    Model, text and how it is read are those of the training, unless others are given.
    """
    from dictlearn.cli.origins import origin
    from dictlearn.cli.reading import reading
    from dictlearn.cli.results import results_in
    from dictlearn.cli.subject import beside
    from dictlearn.cli.subject import loaded as loaded_model
    from dictlearn.comparison.report.html import REPORT_FILE, report_html
    from dictlearn.comparison.tables.joint import joint_table
    from dictlearn.core.folder_sorts import RESULTS, require_apart
    from dictlearn.dictionaries.files import load_all
    from dictlearn.evaluation.faithfulness.evaluate import evaluate as run
    from dictlearn.evaluation.joint.evaluate_together import evaluate_together, require_sets
    from dictlearn.records.joint import JointRecords
    from dictlearn.records.results import RESULTS_FILE, SUMS_FILE

    loaded = load_all(dictionaries)
    found = origin(
        loaded, model, text, context=context, whole_documents=whole_documents, column=column,
        ids_column=ids_column, dataset_split=dataset_split, control_tokens=control_tokens,
        separator=separator, include_special=include_special,
    )  # fmt: skip
    files = [RESULTS_FILE, SUMS_FILE, REPORT_FILE, *([JointRecords.file] if together else [])]
    require_apart(out, RESULTS)
    own = results_in(out, files, overwrite=overwrite)
    read = reading(found.text, split, tokens, **found.settings)
    subject = loaded_model(found.model, check=check_model, device=device, dtype=model_dtype)
    loaded = beside(subject, loaded)
    if together:
        require_sets(subject, loaded)
    blocks = read(subject)
    records = run(
        loaded, subject, blocks, exclude_special=found.exclude_special, bits=bits,
        allow_other_model=allow_other_model,
    )  # fmt: skip
    records.save(own)
    own.write_text(REPORT_FILE, report_html(records))
    show(records)
    if together:
        joint = evaluate_together(
            loaded, subject, blocks, exclude_special=found.exclude_special,
            allow_other_model=allow_other_model,
        )  # fmt: skip
        joint.save(own)
        console.print(joint_table(joint))
    say(f"results: {out / RESULTS_FILE}\nreport:  {out / REPORT_FILE}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders with a results.json.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file, or folder, to write a report of all runs to.")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Show the results of several runs in one table, if they are comparable."""
    from dictlearn.cli.results import results_in
    from dictlearn.comparison.report.html import REPORT_FILE, write_report
    from dictlearn.comparison.runs import combine, load_run

    path = None
    if out is not None:
        path = out if out.suffix and not out.is_dir() else out / REPORT_FILE
        results_in(path.parent, [path.name], overwrite=overwrite)
    names = [run.name if run.suffix != ".json" else run.parent.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    records = combine({n: load_run(run) for n, run in zip(names, runs, strict=True)})
    show(records)
    if path is not None:
        say(f"report: {write_report(records, path)}")
