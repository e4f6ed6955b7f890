"""Commands that run a whole comparison: the demo, and the studies of a benchmark file."""

import inspect
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dictlearn.cli.terminal import Overwrite, console, leftover_fields, show
from dictlearn.core.errors import InputError, nearest
from dictlearn.studies.study import Study

STUDIES_FILE = Path("benchmarks/studies.py")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path(
        "runs/demo"
    ),
    layer: Annotated[int, typer.Option(help="Which MLP of the built-in model.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the stream and of every dictionary.")] = 0,
) -> None:
    """Train four families and their baselines on one MLP of the built-in model (minutes)."""
    from dictlearn.demo import demo_study

    _run(demo_study(layer=layer, seed=seed), out, overwrite=True)


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Run this study; lists them unless given.")] = (
        None
    ),
    studies: Annotated[
        Path, typer.Option(help="Python file with a dict STUDIES of functions by name.")
    ] = STUDIES_FILE,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME unless set.")] = (
        None
    ),
    describe: Annotated[bool, typer.Option(help="Say what would be run, and stop.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run a benchmark study: every family, size, seed or site of it, to one report.

    A run that was interrupted continues when the same command is given again.
    """
    known = _studies(studies)
    if name is None:
        table = Table("study", "what it asks", box=None, pad_edge=False)
        for key, function in known.items():
            table.add_row(key, inspect.cleandoc(function.__doc__ or "").split("\n\n")[0])
        console.print(table)
        return
    if name not in known:
        raise InputError(f"no study {name!r} in {studies}; {nearest(name, known)}")
    study = _made(name, known[name], leftover_fields(context.args))
    if describe:
        console.print_json(data=study.to_dict())
        return
    _run(study, out or Path("runs") / name, overwrite=overwrite)


def _studies(path: Path) -> Mapping[str, Callable[..., Study]]:
    if not path.is_file():
        raise InputError(
            f"required a Python file with STUDIES, got {path}, which is not there; run this in a "
            "clone of the repository, or name a file of yours with --studies"
        )
    found = runpy.run_path(str(path)).get("STUDIES")
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: required a dict STUDIES of functions by name, got {found!r}")
    return found


def _made(name: str, function: Callable[..., Study], given: dict[str, Any]) -> Study:
    parameters = inspect.signature(function).parameters
    for key in given:
        if key not in parameters:
            raise InputError(
                f"study {name!r} has no option --{key.replace('_', '-')}; "
                f"{nearest(key, parameters)}"
            )
    study = function(**given)
    if not isinstance(study, Study):
        raise InputError(f"required a Study from {name!r}, got {type(study).__name__}")
    return study


def _run(study: Study, out: Path, *, overwrite: bool) -> None:
    from dictlearn.comparison.report import REPORT_FILE
    from dictlearn.core.records import RESULTS_FILE
    from dictlearn.studies.run import run_study

    show(run_study(study, out, overwrite=overwrite))
    console.print(f"results: {out / RESULTS_FILE}\nreport:  {out / REPORT_FILE}", highlight=False)
