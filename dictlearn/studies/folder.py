"""The description of a study in the folder of its run: writing, checking and continuing."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from dictlearn.comparison.report.html import REPORT_FILE
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.core.errors import InputError
from dictlearn.core.files import entries_of, read_own_json, typed
from dictlearn.core.own_files import OwnFiles
from dictlearn.findings import PAGE_FILE, RECORD_FILES, code, continued, require_same
from dictlearn.records.results import RESULTS_FILE, Records

STUDY = "a study"
"""The kind of run, in lists of files."""
STUDY_FILE = "study.json"
IMAGES = "images"
SEARCH, LENGTHS = "search", "lengths"
"""Folders with a folder for each number of steps: of the search for learning rates, and of results
on evaluation tokens."""


@dataclass(frozen=True, kw_only=True)
class _Code:
    versions: dict[str, str] = field(default_factory=dict)
    revision: str = ""


@dataclass(frozen=True)
class _Described:
    name: str = ""
    question: str = ""
    seeds: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Begun(_Code):
    """The entries of `study.json` that are read."""

    study: _Described
    continued: list[_Code] = field(default_factory=list)


def begin(
    own: OwnFiles,
    described: Mapping[str, Any],
    source: Callable[[], dict[str, Any]],
    *,
    overwrite: bool,
) -> None:
    """Write the description of a study to its folder, or check the one that is there.

    `source` returns the provenance of model and tokens. A continued run must have the same; if
    the code has changed, its version is recorded in addition. With `overwrite`, the files in the
    folder's list of files are removed.

    Raises:
        InputError: the folder holds a run of another study, or conflicting files.
    """
    if os.path.lexists(own.path / STUDY_FILE) and not overwrite:
        _go_on(own, described, source)
        return
    _require_room(own, described, overwrite=overwrite)
    begun = {"study": described, **source(), **code()}
    if overwrite:
        own.clear()
    own.write_json(STUDY_FILE, begun)


def origin(begun: Mapping[str, Any]) -> str:
    """One line with the seeds and the version of the code of a run."""
    run = typed(begun, _Begun)
    told = "; continued with ".join(map(_code_text, (run, *run.continued)))
    return f"Seeds {run.study.seeds}; {told}."


def _code_text(part: _Code) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in part.versions.items())
    return f"revision {part.revision}; {versions}"


def begun_in(folder: Path) -> dict[str, Any]:
    """The description of the study in `folder`.

    Raises:
        CorruptFileError: there is none, or it is malformed.
    """
    path = folder / STUDY_FILE
    data = read_own_json(path, "study", "choose another folder", unversioned=True)
    with entries_of(path):
        typed(data, _Begun)
    return data


def lengths_in(folder: Path) -> Lengths | None:
    """The search for learning rates in the folder of a finished study, or None without one."""
    if not (folder / SEARCH).exists():
        return None
    validation, held_out = (
        {
            int(path.parent.name): Records.load(path.parent)
            for path in (folder / name).glob(f"*/{RESULTS_FILE}")
        }
        for name in (SEARCH, LENGTHS)
    )
    return Lengths(validation, held_out | {max(validation): Records.load(folder)})


def _go_on(
    own: OwnFiles, described: Mapping[str, Any], source: Callable[[], dict[str, Any]]
) -> None:
    """Check that the folder holds a run of this study, and record that it is continued."""
    begun = begun_in(own.path)
    require_same(own, "study", begun["study"], described)
    unfinished = not all((own.path / part).exists() for part in (RESULTS_FILE, REPORT_FILE))
    if unfinished:
        for name, now in source().items():
            require_same(own, name, begun.get(name, {}), now)
    if not own.lists(STUDY_FILE):
        _adopt(own, begun)
    own.require(STUDY_FILE, REPORT_FILE)
    if unfinished:
        own.write_json(STUDY_FILE, continued(begun, code()))


def _adopt(own: OwnFiles, begun: Mapping[str, Any]) -> None:
    """Register files of the same study that a version without file lists wrote."""
    own.adopt(STUDY_FILE)
    title = f"<title>{escape(begun['study']['question'])}</title>"
    for name, mark in {REPORT_FILE: title, PAGE_FILE: origin(begun)}.items():
        path = own.path / name
        if path.is_file() and mark in path.read_text(encoding="utf-8", errors="replace"):
            own.adopt(name)


def _require_room(own: OwnFiles, described: Mapping[str, Any], *, overwrite: bool) -> None:
    """Check that the folder holds no files other than those that may be overwritten."""
    found = [
        part
        for part in _parts(described)
        if os.path.lexists(own.path / part) and not (overwrite and own.lists(part))
    ]
    if found:
        raise InputError(
            f"{own.path} holds {', '.join(found)}, and no study wrote them, or none that kept a "
            "list of its files: choose another folder, or move them away or delete them by hand"
        )


def _parts(described: Mapping[str, Any]) -> list[str]:
    """The names of all files and folders that the study writes, `study.json` last."""
    files = [*RECORD_FILES, REPORT_FILE, PAGE_FILE, IMAGES, SEARCH, LENGTHS]
    return [*files, "dictionaries", "baselines", "activations", *described["places"], STUDY_FILE]
