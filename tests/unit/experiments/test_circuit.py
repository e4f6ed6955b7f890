"""The study of the pronoun's circuit, small, and its page."""

import re
from html import unescape

import pytest

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.experiments.circuit import study as module
from dictlearn.experiments.circuit.prompts import COUNTS
from dictlearn.experiments.circuit.study import CircuitStudy
from dictlearn.experiments.experiment import run_experiment, write_experiment_page


def test_the_study_at_a_tiny_size(tmp_path, monkeypatch):
    names = {"Lily": " She", "Tom": " He"}
    monkeypatch.setattr(module, "NAMES", names)
    monkeypatch.setattr("dictlearn.experiments.circuit.page.NAMES", names)
    experiment = CircuitStudy(n_seeds=1, steps=2, n_features=64, k=4, n_attributed=64, n_compared=5)
    found = run_experiment(experiment, tmp_path, show=False)
    one = found["circuits-0"]["Tom"]
    assert one["preference"] > 4
    assert len(one["left"]) == len(one["random"]) == len(COUNTS)
    assert abs(one["preference"] - found["neurons"]["Tom"]["preference"]) < 1e-3
    assert found["neurons"]["Lily"]["left"][2] < 0.5, "four neurons are half of it"
    text = write_experiment_page(experiment, found, tmp_path).read_text()
    assert "prefers the right pronoun for 2 of 2 names" in text
    for row in ("| transcoder features |", "| neurons |", "| random features |"):
        assert row in text
    assert "nan" not in text
    graph = CircuitGraph.load(tmp_path / "parts" / "circuits-0" / "graph")
    assert graph.labels == [" She -  He"]
    assert float(graph.targets.values[0]) == pytest.approx(
        found["circuits-0"]["Lily"]["preference"]
    )
    assert graph.show(title=" She -  He").html() in map(
        unescape, re.findall('srcdoc="([^"]*)"', (tmp_path / "report.html").read_text())
    )
    assert "| from | to | weight | influence |" in text
