"""Quality against L0 and bits."""

from dataclasses import replace

import pytest
import torch

from dictlearn.comparison.figures.rates import rate_distortion_figure
from dictlearn.comparison.figures.style import looks, plain
from dictlearn.comparison.statistics.intervals import intervals_frame
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.records.results import Records


def by_name(figure):
    return {trace.name: trace for trace in figure.data if trace.mode != "lines"}


def test_sparsity_marks_lie_at_l0_and_metric(records, hostile):
    figure = rate_distortion_figure(records, "l0", "loss_recovered_zero")
    marks = by_name(figure)
    assert set(marks) == {"codes", "sae", plain(hostile), "random"}
    assert (marks["sae"].x, marks["sae"].y) == ((8.0,), (0.75,))
    assert figure.layout.xaxis.type == "log"
    for number in ("L0 8.0", "dead 25.0%", "FVU 0.250", "CE spliced 2.500", "KL 0.100"):
        assert number in marks["sae"].customdata[0]


def test_sparsity_joins_the_dictionaries_of_one_kind(records):
    (line,) = (
        trace
        for trace in rate_distortion_figure(records, "l0", "loss_recovered_zero").data
        if trace.mode == "lines"
    )
    assert (line.name, line.x, line.y) == ("sae", (8.0, 16.0), (0.75, 0.9))


def test_baselines_that_are_not_sparse_are_horizontal_lines(records):
    figure = rate_distortion_figure(records, "l0", "fraction_variance_unexplained")
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [0.0, 1.0]
    assert {note.text for note in figure.layout.annotations} == {"identity 0.000", "mean 1.000"}


def test_a_baseline_far_away_is_drawn_at_the_edge_with_its_value(records):
    figure = rate_distortion_figure(records, "l0", "loss_recovered_zero")
    random = by_name(figure)["random"]
    assert random.y[0] == figure.layout.yaxis.range[0] > -2.5
    assert (random.text, random.marker.symbol) == ("-2.500", "triangle-down")


def test_undefined_values_are_left_out(records):
    records.dictionaries["sae"].metrics["kl"] = Metric(float("nan"), "none")
    assert "sae" not in by_name(rate_distortion_figure(records, "l0", "kl"))


def test_sparsity_of_nothing_and_of_an_unknown_metric(records):
    empty = Records(records.provenance, records.tokens, {})
    assert len(rate_distortion_figure(empty, "l0", "loss_recovered_zero").data) == 0
    with pytest.raises(InputError, match="loss_recovered_zero"):
        rate_distortion_figure(records, "l0", "loss_recovered_zer")


def test_bits_are_an_axis_like_l0(records):
    for bits, record in enumerate(records.dictionaries.values()):
        record.metrics["bits"] = Metric(10.0 * bits)
        record.sums["bits"] = 10.0 * bits * record.sums["rows"]
    records.dictionaries["mean"].metrics["bits"] = Metric(0.0)
    figure = rate_distortion_figure(records, "bits", "fraction_variance_unexplained")
    marks = by_name(figure)
    assert (marks["sae"].x, marks["sae"].y) == ((10.0,), (0.25,))
    assert "bits 10.0" in marks["sae"].customdata[0]
    assert "identity" in marks, "what is dense has a price like any other"
    assert "codes" not in marks, "nothing can be marked at 0 on a logarithmic axis"
    assert [note.text for note in figure.layout.annotations] == ["mean 1.000"]
    assert figure.layout.xaxis.title.text == "bits per token (log scale)"


def test_against_bits_the_quality_is_what_the_bits_buy(records):
    """Half of what is recovered is lost by quantization; against L0 it is not."""
    record = records.dictionaries["sae"]
    record.metrics["bits"] = Metric(10.0)
    record.sums["bits"] = 300 * torch.tensor([8.0, 12.0, 8.0, 12.0], dtype=torch.float64)
    record.sums["quantized_squared_error"] *= torch.tensor([1.5, 2.5, 1.5, 2.5])
    mark = by_name(rate_distortion_figure(records, "bits", "fraction_variance_unexplained"))["sae"]
    assert (mark.x, mark.y) == ((10.0,), (0.5,))
    assert mark.error_x.array[0] > 0 < mark.error_y.array[0]
    assert "FVU 0.500" in mark.customdata[0]
    mark = by_name(rate_distortion_figure(records, "l0", "fraction_variance_unexplained"))["sae"]
    assert mark.y == (0.25,)


def test_without_a_price_nothing_is_on_the_axis_of_bits(records):
    assert len(rate_distortion_figure(records).data) == 0
    with pytest.raises(InputError, match="'l0' or 'bits'"):
        rate_distortion_figure(records, "l2")


def test_marks_have_the_bars_of_their_intervals(records):
    sums = records.dictionaries["sae"].sums
    sums["squared_error"] *= torch.tensor([0.5, 0.5, 1.5, 1.5])
    mark = by_name(rate_distortion_figure(records, "l0", "fraction_variance_unexplained"))["sae"]
    found = intervals_frame(records).loc[("sae", "fraction_variance_unexplained")]
    assert mark.error_y.array[0] == pytest.approx(found.high - found.value)
    assert mark.error_y.arrayminus[0] == pytest.approx(found.value - found.low)
    assert mark.error_y.arrayminus[0] > 0
    random = by_name(rate_distortion_figure(records, "l0", "loss_recovered_zero"))["random"]
    assert random.error_y.array is None, "a mark at the edge is not at its value"


def test_axes_hold_the_intervals(records):
    """Of marks and of a baseline; the limits were computed from the values alone before."""
    for name in ("sae", "random"):
        sums = records.dictionaries[name].sums
        sums["squared_error"] *= torch.tensor([0.2, 0.6, 1.4, 1.8])
        sums["l0"] *= torch.tensor([0.2, 0.6, 1.4, 1.8])
        sums["bits"] = 10 * sums["l0"]
    found = intervals_frame(records)
    for quality in ("fraction_variance_unexplained", "loss_recovered_zero"):
        figure = rate_distortion_figure(records, "l0", quality)
        bars = [trace for trace in figure.data if trace.error_y.array is not None]
        assert bars
        low, high = figure.layout.yaxis.range
        across = [10**end for end in figure.layout.xaxis.range]
        for mark in bars:
            assert low < mark.y[0] - mark.error_y.arrayminus[0]
            assert mark.y[0] + mark.error_y.array[0] < high
            assert mark.x[0] + mark.error_x.array[0] < across[1]
    assert high < 2, "an interval of a mark that is drawn at the edge does not count"
    assert found.loc[("random", "fraction_variance_unexplained"), "high"] > 1.6


def test_the_lower_end_of_an_interval_is_on_a_logarithmic_axis_if_it_is_positive(records):
    sums = records.dictionaries["codes"].sums
    sums["l0"] *= torch.tensor([0.8, 1.2, 0.8, 1.2])
    low = intervals_frame(records).loc[("codes", "l0"), "low"]
    assert 2 < low < 4
    assert 10 ** rate_distortion_figure(records, "l0").layout.xaxis.range[0] < low
    sums["l0"] *= torch.tensor([0.1, 5.0, 0.1, 5.0])
    assert intervals_frame(records).loc[("codes", "l0"), "low"] < 0
    axis = rate_distortion_figure(records, "l0").layout.xaxis
    assert all(torch.isfinite(torch.tensor(axis.range)))


def test_marks_and_legend_are_in_the_order_of_families_and_l0(records, make):
    group = {f"{kind}-{k}": make(kind, l0=k) for kind in ("topk", "sae") for k in (16, 32, 8)}
    group = {"pca": make("pca", l0=4), **group}
    expected = ["topk-8", "topk-16", "topk-32", "sae-8", "sae-16", "sae-32", "pca"]
    found = replace(records, dictionaries=group)
    figure = rate_distortion_figure(found, "l0", "loss_recovered_zero")
    assert [trace.name for trace in figure.data if trace.mode != "lines"] == expected
    symbols = [t.marker.symbol for t in figure.data if t.mode != "lines"]
    assert symbols[:3] == symbols[3:6] == ["circle", "diamond", "square"], "with the smallest L0"
    assert list(looks(found)) == expected


def test_one_sequence_leaves_figures_without_bars(records):
    for record in records.dictionaries.values():
        record.sums.update({name: s[:1] for name, s in record.sums.items()})
    assert (
        by_name(rate_distortion_figure(records, "l0", "loss_recovered_zero"))["sae"].error_y.array
        is None
    )


def test_seeds_with_several_dictionaries_have_lines_of_their_own(records, make):
    of_seeds = {f"{seed}-{k}": make("sae", l0=k, seed=seed) for seed in (0, 1) for k in (4, 8)}
    figure = rate_distortion_figure(
        Records(records.provenance, records.tokens, of_seeds), "l0", "loss_recovered_zero"
    )
    lines = [trace.x for trace in figure.data if trace.mode == "lines"]
    assert lines == [(4, 8), (4, 8)]


def test_dictionaries_trained_differently_are_not_joined(records, make):
    def trained(k, steps, seed=0):
        record = make("sae", l0=k, seed=seed)
        run = {"steps": steps, "batch_size": 64, "learning_rate": 0.01}
        return replace(record, provenance=record.provenance.trained(seed, fit_config=run))

    both = {f"{k}-{steps}": trained(k, steps) for k in (4, 8, 16) for steps in (100, 200)}
    found = replace(records, dictionaries=both)
    lines = {t.name: t.x for t in rate_distortion_figure(found, "l0").data if t.mode == "lines"}
    assert lines == {"sae, 100 steps": (4, 8, 16), "sae, 200 steps": (4, 8, 16)}
    alike = replace(records, dictionaries={k: r for k, r in both.items() if k.endswith("-100")})
    lines = [t.name for t in rate_distortion_figure(alike, "l0").data if t.mode == "lines"]
    assert lines == ["sae"]
