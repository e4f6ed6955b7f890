"""Training logs and curves."""

import json

import pytest

from dictlearn.comparison.figures.style import looks
from dictlearn.comparison.figures.training import read_training_log, training_figure
from dictlearn.core.errors import CorruptFileError


def test_training_log_leaves_out_a_truncated_last_line(tmp_path):
    path = tmp_path / "log.jsonl"
    rows = [{"step": 1, "sae/loss": 2.0}, {"step": 2, "sae/loss": 1.0}]
    whole = "\n".join(json.dumps(row) for row in rows)
    path.write_text(whole + '\n\n{"step": 3, "sae/lo')
    assert read_training_log(path) == rows
    path.write_text(whole)
    assert read_training_log(path) == rows


@pytest.mark.parametrize("line", ['{"step": 1', "[1]"])
def test_training_log_refuses_a_broken_line(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(CorruptFileError, match="line 2"):
        read_training_log(path)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_training_log(tmp_path / "absent.jsonl")


def test_training_curves_by_dictionary_and_quantity():
    rows = [
        {"step": 20, "a/sae/loss": 1.0, "a/sae/l0": 8.0, "rate": 3.0},
        {"step": 10, "a/sae/loss": 2.0, "a/sae/l0": float("nan"), "a/sae/note": "x"},
        {"step": 20, "a/sae/loss": 1.5},
    ]
    figure = training_figure({"": rows})
    loss, l0 = figure.data
    assert (loss.name, loss.x, loss.y) == ("a/sae", (10, 20), (2.0, 1.5))
    assert (l0.x, l0.y, l0.showlegend) == ((20,), (8.0,), False)
    assert figure.layout.yaxis.title.text == "loss"
    assert figure.layout.yaxis2.title.text == "L0"


def test_training_of_several_logs_and_of_none(records):
    rows = [{"step": 1, "sae/fvu": 0.5}]
    names = [trace.name for trace in training_figure({"one": rows, "two": rows}).data]
    assert names == ["one/sae", "two/sae"]
    (curve,) = training_figure({"": rows}, looks(records)).data
    assert curve.line.color == looks(records)["sae"].colour
    assert len(training_figure({"": []}).data) == 0
