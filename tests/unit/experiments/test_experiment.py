"""Experiments: parts are done once, a run goes on where it was, and a page tells the results."""

from dataclasses import dataclass
from typing import ClassVar

import plotly.graph_objects as go
import pytest

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.experiments.experiment import (
    Experiment,
    Page,
    Table,
    mean_and_margin,
    run_experiment,
    shown,
    write_experiment_page,
)

DONE = []


@dataclass(frozen=True, kw_only=True)
class Counts(Experiment):
    name: ClassVar[str] = "counts"
    question: ClassVar[str] = "How many | parts?"
    n: int = 3
    fails_at: ClassVar[int | None] = None

    def parts(self):
        return {f"part-{i}": (lambda own, i=i: self._part(own, i)) for i in range(self.n)}

    def _part(self, own, i):
        if i == Counts.fails_at:
            raise KeyboardInterrupt
        DONE.append(i)
        own.folder("made").write_text(f"{i}.txt", str(i))
        return {"i": i, "text": (own.path / "made" / f"{i}.txt").read_text()}

    def page(self, found):
        rows = [[name, str(one["i"])] for name, one in found.items()]
        return Page([f"{len(found)} parts."], [Table("Parts", "Each.", ["part", "i"], rows)],
                    {"empty": go.Figure()})  # fmt: skip


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


def test_a_damaged_part_is_told(tmp_path):
    run_experiment(Counts(), tmp_path, show=False)
    path = tmp_path / "parts" / "part-1.json"
    path.write_text(path.read_text().replace('"i": 1', '"i": 7'))
    with pytest.raises(CorruptFileError, match=r"part-1\.json"):
        run_experiment(Counts(), tmp_path, show=False)


def test_intervals_over_seeds():
    mean, margin = mean_and_margin([1.0, 2.0, 3.0])
    assert mean == 2
    assert margin == pytest.approx(4.302653 / 3**0.5)
    assert shown([0.5], 1, 100) == "50.0"
    assert shown([0.1, 0.1], 2) == "0.10 ±0.00"
