"""A study in parts, each saved when it is done, and a page about all of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, ClassVar

from dictlearn.comparison.figures.images import write_images
from dictlearn.comparison.report.html import REPORT_FILE
from dictlearn.comparison.report.templates import render
from dictlearn.core.config import Config
from dictlearn.core.errors import InputError
from dictlearn.core.files import read_own_json
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import code_revision, library_versions
from dictlearn.distributed.tasks import Task, run_tasks
from dictlearn.experiments.page import Page
from dictlearn.findings import PAGE_FILE
from dictlearn.metrics.intervals import student_quantile
from dictlearn.progress import add_times, measured, progress
from dictlearn.studies.folder import IMAGES
from dictlearn.training.checkpoints import differences

EXPERIMENT_FILE, PARTS, RESULT_FILE = "experiment.json", "parts", "result.json"

Found = dict[str, Any]
"""The result of a part: numbers, texts and lists of them, by name."""


@dataclass(frozen=True)
class Part:
    """A part of an experiment."""

    work: Callable[[OwnFiles], Found]
    """A function of the part's folder that returns its result."""
    after: tuple[str, ...] = ()
    """The parts whose folders or results it uses."""


def beside(own: OwnFiles, part: str) -> Path:
    """The folder of another part."""
    return own.path.parent / part


@dataclass(frozen=True, kw_only=True)
class Experiment(Config, ABC):
    """A study whose fields determine its results."""

    name: ClassVar[str]
    question: ClassVar[str]

    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """The parts, by name, each behind those that it uses."""

    @abstractmethod
    def page(self, found: Mapping[str, Found]) -> Page:
        """The page about the results of all parts."""


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    *,
    overwrite: bool = False,
    nproc: int = 1,
    show: bool = True,
) -> dict[str, Found]:
    """The results of all parts of `experiment`, which are saved in the folder `out`.

    Parts that do not use each other run in `nproc` processes at a time. A part that is there
    already is not run again, so an interrupted run goes on with the parts that it was in. Only
    files that an earlier run wrote there are overwritten, and only on request.

    Raises:
        InputError: the folder holds a run with other settings, or several processes are asked for
            an experiment that is not defined in a module.
        StorageError: the folder cannot be written.
    """
    own = OwnFiles(Path(out), "an experiment")
    with own.locked():
        parts = experiment.parts()  # they may refuse a setting
        if overwrite:
            own.clear()
        _begin(own, experiment)
        left = {
            name: Task(partial(_run, experiment, name, own.folder(PARTS, name)), part.after)
            for name, part in parts.items()
            if not (own.path / PARTS / name / RESULT_FILE).exists()
        }
        times: list[dict[str, float]] = []
        with progress(experiment.name, len(parts), show=show) as done, measured():
            n_before = len(parts) - len(left)

            def finished(name: str, seconds: dict[str, float]) -> None:
                times.append(seconds)
                done(n_before + len(times))

            run_tasks(left, nproc, finished)
        for seconds in times:  # instead of the time that this process waited for others
            add_times(seconds)
        return {name: _part(own, name)["found"] for name in parts}


def _run(experiment: Experiment, name: str, own: OwnFiles) -> dict[str, float]:
    """Run a part, in what time; what an interrupted run left of it is removed."""
    with measured(name) as seconds:
        own.clear()
        found = experiment.parts()[name].work(own)
        own.write_json(RESULT_FILE, {"found": found, "revision": code_revision()})
    return seconds


def write_experiment_page(
    experiment: Experiment,
    found: Mapping[str, Found],
    out: str | Path,
    *,
    about: Sequence[str] = (),
    image_format: str | None = None,
) -> Path:
    """The path of the Markdown page about an experiment, in its folder, beside `report.html`.

    The HTML page needs no network; its figures and circuit graphs can be explored. With an
    `image_format` ("svg", "png" or "pdf"), the figures are written to `images/` too.

    Raises:
        CorruptFileError: a circuit graph that the page shows is absent or damaged.
        InputError: a page of this name was not written so, or has been edited.
    """
    own, page, links = OwnFiles(Path(out), "an experiment"), experiment.page(found), {}
    graphs = [graph.drawn(own.path) for graph in page.graphs]
    if image_format is not None:
        drawn = write_images(page.figures, own.folder(IMAGES), image_format)
        links = {name: f"{IMAGES}/{path.name}" for name, path in drawn.items()}
    revisions = dict.fromkeys(_part(own, name).get("revision", "") for name in found)
    code = f"Revision {', '.join(filter(None, revisions))}; " + ", ".join(
        f"{name} {number}" for name, number in library_versions().items()
    )
    told = {"title": experiment.question, "about": [*about, f"{code}."], "graphs": graphs,
            "verdict": page.verdict, "tables": page.tables}  # fmt: skip
    framed = [graph.page for graph in graphs]
    html = render("experiment.html.jinja", **told, figures=page.figures, framed=framed)
    own.write_text(REPORT_FILE, html)
    own.write_text(PAGE_FILE, render("experiment.md.jinja", **told, images=links))
    return own.path / PAGE_FILE


def _part(own: OwnFiles, name: str) -> dict[str, Any]:
    """The result of a part, and the revision of the code that computed it."""
    return read_own_json(own.path / PARTS / name / RESULT_FILE, "a part", "overwrite the run")


def _begin(own: OwnFiles, experiment: Experiment) -> None:
    """Write the settings, or check that those in the folder are the same."""
    described = {"experiment": experiment.name, "settings": experiment.to_dict()}
    path = own.path / EXPERIMENT_FILE
    if not path.exists():
        own.write_json(EXPERIMENT_FILE, described)
        return
    begun = read_own_json(path, "an experiment", "overwrite the run")
    if changed := differences({k: begun.get(k) for k in described}, described):
        raise InputError(
            f"{own.path} holds a run that differs in {', '.join(changed)}; choose another folder, "
            "or overwrite that run (overwrite=True, --overwrite)"
        )


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds, and half the width of its 95 % interval (Student's)."""
    if len(values) < 2:
        return fmean(values), nan
    n = len(values)
    return fmean(values), student_quantile(n - 1) * stdev(values) / sqrt(n)


def shown(values: Sequence[float], digits: int = 3, factor: float | int = 1.0) -> str:
    """The mean over seeds with its margin, in words."""
    mean, margin = mean_and_margin([factor * value for value in values])
    return f"{mean:.{digits}f}" + (f" ±{margin:.{digits}f}" if isfinite(margin) else "")
