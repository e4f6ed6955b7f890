"""Training logs and curves."""

import json

import pytest

from dictlearn.comparison.figures.style import Look, looks
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
    l0, loss = figure.data
    assert (loss.name, loss.x, loss.y) == ("a/sae", (10, 20), (2.0, 1.5))
    assert (l0.x, l0.y, loss.showlegend) == ((20,), (8.0,), False)
    assert figure.layout.yaxis.title.text == "L0 (log)"
    assert figure.layout.yaxis2.title.text == "loss (log)"


def test_losses_of_different_kinds_have_panels_of_their_own():
    rows = [{"step": 1, "sae/loss": 1.0, "codes/loss": 50.0, "sae/fvu": 0.5, "codes/fvu": 0.4}]
    kinds = {"sae": "sae", "codes s0": "codebook"}
    figure = training_figure({"": rows}, kinds=kinds)
    axes = {(trace.name, trace.y[0]): trace.yaxis for trace in figure.data}
    assert axes["sae", 0.5] == axes["codes", 0.4] == "y"
    assert {axes["sae", 1.0], axes["codes", 50.0]} == {"y2", "y3"}
    titles = [figure.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert titles == ["FVU", "loss<br>sae (log)", "loss<br>codebook (log)"]
    alike = training_figure({"": rows}, kinds={"sae": "sae", "codes": "sae"})
    assert alike.layout.yaxis2.title.text == "loss (log)"
    assert "yaxis3" not in alike.layout


def test_a_curve_has_the_colour_of_its_dictionary_whatever_log_and_seed():
    style = {"sae s0": Look("#123456", "circle", "solid"), "b": Look("#abcdef", "circle", "dot")}
    rows = [{"step": 1, "sae/fvu": 0.5, "b/fvu": 0.4}]
    figure = training_figure({"rate 0.1": rows, "rate 1": rows}, style)
    colours = {trace.name: trace.line.color for trace in figure.data}
    assert colours["rate 0.1/sae"] == colours["rate 1/sae"] == "#123456"
    assert colours["rate 0.1/b"] == "#abcdef"


def test_training_of_several_logs_and_of_none(records):
    rows = [{"step": 1, "sae/fvu": 0.5}]
    names = [trace.name for trace in training_figure({"one": rows, "two": rows}).data]
    assert names == ["one/sae", "two/sae"]
    (curve,) = training_figure({"": rows}, looks(records)).data
    assert curve.line.color == looks(records)["sae"].colour
    assert len(training_figure({"": []}).data) == 0
