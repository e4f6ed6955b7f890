"""Experiments: parts are done once, a run goes on where it was, and a page tells the results."""

import time
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import plotly.graph_objects as go
import pytest

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.experiments.experiment import (
    Experiment,
    Part,
    beside,
    mean_and_margin,
    run_experiment,
    shown,
    write_experiment_page,
)
from dictlearn.experiments.page import Page, Table

DONE = []


@dataclass(frozen=True, kw_only=True)
class Counts(Experiment):
    name: ClassVar[str] = "counts"
    question: ClassVar[str] = "How many | parts?"
    n: int = 3
    fails_at: ClassVar[int | None] = None

    def parts(self):
        return {f"part-{i}": Part(partial(self._part, i)) for i in range(self.n)}

    def _part(self, i, own):
        if i == Counts.fails_at:
            raise KeyboardInterrupt
        DONE.append(i)
        own.folder("made").write_text(f"{i}.txt", str(i))
        return {"i": i, "text": (own.path / "made" / f"{i}.txt").read_text()}

    def page(self, found):
        rows = [[name, str(one["i"])] for name, one in found.items()]
        return Page([f"{len(found)} parts."], [Table("Parts", "Each.", ["part", "i"], rows)],
                    {"empty": go.Figure()})  # fmt: skip


def test_a_refused_experiment_leaves_and_removes_nothing(tmp_path, monkeypatch):
    run_experiment(Counts(n=1), tmp_path / "x", show=False)
    before = sorted(tmp_path.rglob("*"))

    def refused(self):
        raise InputError("required another n")

    monkeypatch.setattr(Counts, "parts", refused)
    for out, overwrite in ((tmp_path / "x", True), (tmp_path / "runs" / "y", False)):
        with pytest.raises(InputError, match="another n"):
            run_experiment(Counts(), out, overwrite=overwrite, show=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    DONE.clear()
    monkeypatch.setattr(Counts, "fails_at", 2)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(Counts(), tmp_path / "x", show=False)
    monkeypatch.setattr(Counts, "fails_at", None)
    found = run_experiment(Counts(), tmp_path / "x", show=False)
    assert DONE == [0, 1, 2]
    assert found == {f"part-{i}": {"i": i, "text": str(i)} for i in range(3)}
    with pytest.raises(InputError, match=r"differs in settings\.n"):
        run_experiment(Counts(n=4), tmp_path / "x", show=False)
    (tmp_path / "x" / "mine.txt").write_text("stays")
    run_experiment(Counts(n=4), tmp_path / "x", overwrite=True, show=False)
    assert DONE == [0, 1, 2, 0, 1, 2, 3]
    assert (tmp_path / "x" / "mine.txt").exists()

    page = write_experiment_page(Counts(n=4), found, tmp_path / "x", about=["Made by `me`."])
    text = page.read_text()
    assert text.startswith("# How many \\| parts?\n\nMade by <code>me</code>.")
    assert "| part-2 | 2 |" in text
    assert "## Verdict\n\n3 parts." in text


@dataclass(frozen=True, kw_only=True)
class Chains(Experiment):
    """Two chains whose second links read what the first ones wrote, the slower chain first."""

    name: ClassVar[str] = "chains"
    question: ClassVar[str] = "Who waits?"

    def parts(self):
        first = {f"first-{i}": Part(partial(self._first, i)) for i in range(2)}
        return first | {
            f"second-{i}": Part(partial(self._second, i), (f"first-{i}",)) for i in range(2)
        }

    def _first(self, i, own):
        own.write_text("made.txt", str(i))
        time.sleep(1 - i)
        return {"at": time.time()}

    def _second(self, i, own):
        return {"read": (beside(own, f"first-{i}") / "made.txt").read_text(), "at": time.time()}

    def page(self, found):
        return Page([], [])


def test_parts_in_two_processes(tmp_path):
    alone = run_experiment(Chains(), tmp_path / "one", show=False)
    apart = run_experiment(Chains(), tmp_path / "two", nproc=2, show=False)
    assert list(apart) == list(alone)
    assert [apart[f"second-{i}"]["read"] for i in range(2)] == ["0", "1"]
    assert alone["second-1"]["at"] > alone["first-0"]["at"]
    assert apart["second-1"]["at"] < apart["first-0"]["at"]  # it waited for its own chain alone


def test_what_a_killed_part_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Counts, "fails_at", None)
    run_experiment(Counts(), tmp_path, show=False)
    (tmp_path / "parts" / "part-1" / "result.json").unlink()
    DONE.clear()
    run_experiment(Counts(), tmp_path, show=False)
    assert DONE == [1]


def test_a_damaged_part_is_told(tmp_path):
    run_experiment(Counts(), tmp_path, show=False)
    path = tmp_path / "parts" / "part-1" / "result.json"
    path.write_text(path.read_text().replace('"i": 1', '"i": 7'))
    with pytest.raises(CorruptFileError, match=r"part-1.result\.json"):
        run_experiment(Counts(), tmp_path, show=False)


def test_intervals_over_seeds():
    mean, margin = mean_and_margin([1.0, 2.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(4.302653 / 3**0.5)
    assert shown([0.5], 1, 100) == "50.0"
    assert shown([0.1, 0.1], 2) == "0.10 ±0.00"
