"""The table of searches by size: that it runs, and that its searches agree."""

import sys

import torch

from benchmarks import bounds
from benchmarks.bounds import ALL, Case, searches


def test_exact_searches_of_a_case_find_the_same_features():
    found = {name: search() for name, search in searches(Case(70, 16, 200, 4)).items()}
    everything = found.pop(ALL).features
    found.pop("int8_search", None)
    for name, top in found.items():
        assert torch.equal(top.features, everything), name


def test_the_quick_table_has_a_row_per_case(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bounds", "--quick"])
    monkeypatch.setenv("COLUMNS", "160")
    bounds.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row.split("│")][1:5] for row in rows] == [
        ["64", "16", "128", "4"]
    ] * 3
    assert all("no" in row for row in rows)
