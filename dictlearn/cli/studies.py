"""Commands that run complete comparisons: the demo and benchmark studies."""

import inspect
import runpy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from dictlearn.cli import options
from dictlearn.cli.subject import use_device
from dictlearn.cli.terminal import console, given_fields, say, show, show_times
from dictlearn.core.config import in_words, matches
from dictlearn.core.errors import InputError, nearest

if TYPE_CHECKING:
    from dictlearn.experiments.experiment import Experiment
    from dictlearn.studies.study import Study


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo"),
    layer: Annotated[int, typer.Option(help="Layer of the MLP in the built-in model.")] = 0,
    seed: options.Seed = 0,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train and evaluate four kinds of dictionary and baselines on the built-in model (minutes).

    To continue an interrupted run, repeat the command.
    """
    from dictlearn.demo import demo_study

    use_device(device)
    study = demo_study(layer=layer, seed=seed)
    given = {"layer": layer, "seed": seed, "device": device}
    command = "dictlearn demo" + "".join(f" --{name} {v}" for name, v in given.items() if v)
    _run(study, out, command, overwrite=overwrite)


def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Study to run; lists all if not given.")] = (
        None
    ),
    studies: Annotated[
        Path | None,
        typer.Option(
            help="Python file with a dict STUDIES of functions by name; by default the package's "
            "own studies."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; by default runs/NAME.")] = (None),
    images: Annotated[
        str | None,
        typer.Option(help="Also write the main figures as svg, png or pdf files."),
    ] = None,
    nproc: Annotated[
        int | None,
        typer.Option(
            help="Processes for parts that do not need each other; by default one for each core, "
            "and one in all on a GPU or with --studies."
        ),
    ] = None,
    device: options.Device = None,
    describe: Annotated[bool, typer.Option(help="Describe the study without running it.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Run a benchmark study: train and evaluate all its dictionaries, and write a report.

    To continue an interrupted run, repeat the command.
    """
    known = _studies(studies)
    if name is None:
        table = Table("study", "question", box=None, pad_edge=False)
        for key, function in known.items():
            question = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
            table.add_row(escape(key), escape(question))
        console.print(table)
        return
    given = given_fields(context)
    if name not in known:
        raise InputError(f"no study {name!r} in {studies or 'the package'}; {nearest(name, known)}")
    study = _made(name, known[name], given)
    if describe:
        console.print_json(data=study.to_dict())
        return
    if studies is not None:
        given = {"studies": studies, **given}
    flags = "".join(f" --{key.replace('_', '-')} {value}" for key, value in given.items())
    flags += f" --images {images}" if images else ""
    flags += f" --nproc {nproc}" if nproc else ""
    flags += f" --device {device}" if device else ""
    use_device(device)
    nproc = nproc or (1 if studies is not None else _n_processes())
    command = f"dictlearn bench {name}{flags}"
    out = out or Path("runs") / name
    _run(study, out, command, overwrite=overwrite, images=images, nproc=nproc)


def _n_processes() -> int:
    """One process for each core; one alone on a GPU."""
    from dictlearn.core.devices import default_device
    from dictlearn.distributed.launching import n_cores

    return n_cores() if default_device() == "cpu" else 1


def _studies(path: Path | None) -> Mapping[str, Callable[..., "Study | Experiment"]]:
    if path is None:
        from dictlearn.builtin_studies import STUDIES

        return STUDIES
    if not path.is_file():
        raise InputError(
            f"required a Python file with STUDIES, got --studies {path}, which is not there; name "
            "another file, or leave --studies out for the package's own studies"
        )
    found = runpy.run_path(str(path)).get("STUDIES")
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path}: required a dict STUDIES of functions by name, got {found!r}")
    return found


def _made(
    name: str, function: Callable[..., "Study | Experiment"], given: dict[str, Any]
) -> "Study | Experiment":
    from dictlearn.experiments.experiment import Experiment
    from dictlearn.studies.study import Study

    parameters = inspect.signature(function).parameters
    for key, value in given.items():
        if key not in parameters:
            raise InputError(
                f"study {name!r} has no option --{key.replace('_', '-')}; "
                f"{nearest(key, parameters)}"
            )
        wanted = parameters[key].annotation
        if wanted in (bool, int, float, str) and not matches(value, wanted):
            raise InputError(
                f"--{key.replace('_', '-')} of study {name!r} must be {in_words(wanted)}, got "
                f"{value!r}"
            )
    study = function(**given)
    if not isinstance(study, Study | Experiment):
        raise InputError(
            f"required a Study or an Experiment from {name!r}, got {type(study).__name__}"
        )
    return study


def _run(
    study: "Study | Experiment",
    out: Path,
    command: str,
    *,
    overwrite: bool,
    images: str | None = None,
    nproc: int = 1,
) -> None:
    from dictlearn.comparison.report.html import REPORT_FILE
    from dictlearn.experiments.experiment import (
        EXPERIMENT_FILE,
        Experiment,
        run_experiment,
        write_experiment_page,
    )
    from dictlearn.progress import measured, timed

    began = time.monotonic()
    if isinstance(study, Experiment):
        continued = (out / EXPERIMENT_FILE).exists() and not overwrite
        with measured() as seconds:
            found = run_experiment(study, out, overwrite=overwrite, nproc=nproc)
            about = [f"Written by `{command}`{'' if continued else _took(began, nproc)}."]
            with timed("report"):
                page = write_experiment_page(study, found, out, about=about, image_format=images)
        say(page.read_text(encoding="utf-8"))
        show_times(seconds)
        say(f"report:  {page.with_name(REPORT_FILE)}")
        say(f"page:    {page}")
        return
    from dictlearn.records.results import RESULTS_FILE
    from dictlearn.studies.folder import STUDY_FILE
    from dictlearn.studies.page import write_page
    from dictlearn.studies.run import run_study

    continued = (out / STUDY_FILE).exists() and not overwrite
    with measured() as seconds:
        records = run_study(study, out, overwrite=overwrite, nproc=nproc)
        took = "" if continued else _took(began, nproc)
        with timed("report"):
            page = write_page(out, about=[f"Written by `{command}`{took}."], image_format=images)
    show(records)
    show_times(seconds)
    for label, path in {
        "results": out / RESULTS_FILE, "report": out / REPORT_FILE, "page": page
    }.items():  # fmt: skip
        say(f"{label + ':':9}{path}")


def _took(began: float, nproc: int) -> str:
    """How long a run took that began at this time, in words."""
    import torch

    minutes, n = (time.monotonic() - began) / 60, torch.get_num_threads()
    within = f"{n} thread{'s' * (n > 1)}" if nproc == 1 else f"{nproc} processes"
    return f", in {minutes:.1f} minutes with {within}"
