"""One table of families at equal rates, in three media."""

import re
from dataclasses import replace

import pytest
import torch
from scipy.stats import t

from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.report.templates import render
from dictlearn.comparison.tables.matched import matched_tables
from dictlearn.comparison.tables.terminal import as_terminal
from dictlearn.records.results import Records

HOOK = "blocks.0.hook_mlp_out"


@pytest.fixture
def overlap(records, make):
    """A family, a copy of it and a worse one, whose errors vary between sequences."""
    found = {}
    for kind, fvu in (("a", 0.3), ("b", 0.3), ("c", 0.5)):
        for k in (4, 16):
            record = make(kind, l0=k, fvu=fvu)
            sums = {name: values.repeat(4) for name, values in record.sums.items()}
            sums["squared_error"] *= 1 + 0.1 * torch.linspace(-1, 1, 16, dtype=torch.float64)
            found[f"{kind}-{k}"] = replace(record, sums=sums)
    return Records(records.provenance, records.tokens, found)


def test_every_medium_has_the_same_cells(overlap):
    (table,) = matched_tables(overlap)
    assert [c.heading for c in table.columns][:2] == ["L0: active features per token", "family"]
    at_five = [[cell.text for cell in row] for row in table.groups[0]]
    assert [row[:2] for row in at_five] == [["5", "a"], ["5", "b"], ["5", "c"]]
    assert at_five[0][-1] == "best"
    assert at_five[1][-1].startswith("\N{ALMOST EQUAL TO} best\n")
    assert at_five[2][-1].startswith("0.200")
    markdown, terminal = results_page(overlap, "Toys"), as_terminal(table)
    html = render("rates.html.jinja", curves={}, matched=[table])
    drawn = [str(cell) for column in terminal.columns for cell in column._cells]
    for cell in (cell for row in table.rows for cell in row):
        lines = cell.text.replace("<", "&lt;").replace("\n", "<br>")
        assert f"| {lines} |" in markdown
        assert re.search(rf">{re.escape(lines)}</t[dh]>", html)
        assert cell.text in drawn
    assert 'title="p ' in html


def test_a_difference_that_only_the_correction_makes_insignificant_is_no_tie(overlap):
    """Planted: 1 % worse, which is 2.3 standard errors of the paired differences."""
    alternating = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(8)
    for name in ("b-4", "b-16"):
        record = overlap.dictionaries[name]
        error = overlap.dictionaries[name.replace("b", "a")].sums["squared_error"]
        noise = 0.01 * 15**0.5 / 2.3 * error.mean() * alternating
        sums = record.sums | {"squared_error": 1.01 * error.mean() + error - error.mean() + noise}
        overlap.dictionaries[name] = replace(record, sums=sums)
    (table,) = matched_tables(overlap)
    assert table.groups[0][1][-1].text.startswith("not significant\n0.003 ±")
    corrected = 4 * 2 * t.sf(2.3, 15)
    assert table.groups[0][1][-1].hover == f"p {corrected:.3f}, Holm", "c comes first, twice"
    assert table.groups[0][2][-1].hover == "p <1e-06, Holm"


def test_hooks_have_a_column_where_there_are_several(overlap, make):
    late = {f"{kind}-late-{k}": make(kind, l0=k, hook="blocks.1.mlp") for kind in "ab"
            for k in (4, 16)}  # fmt: skip
    for name, record in late.items():
        sums = {key: values.repeat(4) for key, values in record.sums.items()}
        late[name] = replace(record, sums=sums)
    both = replace(overlap, dictionaries=overlap.dictionaries | late)
    (table,) = matched_tables(both)
    assert [column.heading for column in table.columns][1:3] == ["hook", "family"]
    assert {row[1].text for row in table.rows} == {HOOK, "blocks.1.mlp"}


def test_without_overlap_there_is_no_table(records):
    (table,) = matched_tables(records)
    assert {(row[0].text, row[1].text) for row in table.rows} == {("8", "sae"), ("8", "random")}
    del records.dictionaries["random"]
    assert matched_tables(records) == []
