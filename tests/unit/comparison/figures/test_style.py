"""Colours and symbols that all figures share."""

import math

import pytest

from dictlearn.comparison.figures.density import density_figure
from dictlearn.comparison.figures.rates import rate_distortion_figure
from dictlearn.comparison.figures.style import BASELINE_COLOUR, log_axis, looks
from dictlearn.records.results import Records


def by_name(figure):
    return {trace.name: trace for trace in figure.data if trace.mode != "lines"}


def test_one_colour_a_kind_in_all_figures(records, hostile):
    style = looks(records)
    assert style["sae"].colour == style[hostile].colour != style["codes"].colour
    assert style["sae"].symbol != style[hostile].symbol
    assert {style[n].colour for n in ("mean", "random", "identity")} == {BASELINE_COLOUR}
    marks = by_name(rate_distortion_figure(records, "l0", "loss_recovered_zero"))
    bars = {trace.name: trace for trace in density_figure(records).data}
    assert marks["sae"].marker.color == bars["sae"].marker.color == style["sae"].colour


def test_many_dictionaries_are_named_by_kind_and_look_alike(records, make):
    group = {
        f"{kind}_{i} s{seed}": make(kind, l0=2.0**i, seed=seed)
        for kind in ("sae", "topk_sae")
        for i in range(1, 6)
        for seed in (0, 1)
    }
    many = Records(records.provenance, records.tokens, group)
    figure = rate_distortion_figure(many, "l0", "loss_recovered_zero")
    marks = [trace for trace in figure.data if trace.mode.startswith("markers")]
    assert len(marks) == 20
    assert [trace.name for trace in marks if trace.showlegend] == ["sae", "topk_sae"]
    assert len({(trace.legendgroup, trace.marker.symbol) for trace in marks}) == 2
    assert len(density_figure(many).data) == 10, "the first seed only"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([70.0, 80.0], ["60", "70", "80", "90", "100"]),  # 100 alone at 1, 2 and 5 times powers
        ([1.0, 50.0, -1.0, 0.0], ["1", "2", "5", "10", "20", "50"]),
        ([0.01, 100.0], ["0.01", "0.1", "1", "10", "100"]),
    ],
)
def test_a_logarithmic_axis_has_ticks_that_tell_its_scale(values, shown):
    axis = log_axis(values)
    (low, high), ticks = axis["range"], zip(axis["tickvals"], axis["ticktext"], strict=True)
    assert [text for tick, text in ticks if low <= math.log10(tick) <= high] == shown
