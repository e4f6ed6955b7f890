"""Heatmaps and histograms of similarity, from records made by hand."""

import math
import re
from dataclasses import replace
from html import escape

import pytest

from dictlearn.comparison.figures.agreement import (
    MEASURE_LABELS,
    agreement_figure,
    chance,
    similarity_histogram,
)
from dictlearn.comparison.figures.style import Look
from dictlearn.core.errors import InputError
from dictlearn.records.agreement import GAUSSIAN, MEASURES, ROWS


def test_rows_are_looked_for_in_columns(agreement, hostile):
    figure = agreement_figure(agreement)
    (drawn,) = figure.data
    names = ("sae", "sae-2", escape(hostile, quote=False), "random")
    assert figure.layout.yaxis.ticktext == names, "whole"
    assert figure.layout.xaxis.automargin
    assert figure.layout.yaxis.automargin
    assert figure.layout.yaxis.autorange == "reversed"
    assert (drawn.z[0][1], drawn.z[1][0]) == (0.9, 0.8)
    assert [drawn.z[i][i] for i in range(4)] == [None] * 4
    assert (
        "features of sae<br>compared with sae-2<br>mean max cosine similarity 0.900"
        in drawn.customdata[0][1]
    )
    assert drawn.z[3][2] is None
    assert "&lt;other&gt; targets" in drawn.customdata[3][2]
    assert hostile not in str(drawn.customdata)


def test_long_names_are_whole_in_several_lines(make_agreement):
    names = {"rows of data blocks.2.hook_resid_post": "rows of data", "codes": "codebook"}
    labels = agreement_figure(make_agreement(names, {})).layout.xaxis.ticktext
    assert set(labels) == {"rows of data<br>blocks.2.hook_resid_post", "codes"}


def test_every_measure_has_a_map(agreement):
    assert set(MEASURE_LABELS) == set(MEASURES)
    shares = agreement_figure(agreement, "matched_share").data[0]
    assert shares.z[0][1] == 0.25
    assert "fraction matched above 0.9 0.250" in shares.customdata[0][1]
    missing = agreement_figure(agreement, "correlation_median").data[0]
    assert missing.z[0][1] is None
    assert "needs a model and tokens" in missing.customdata[0][1]
    with pytest.raises(InputError, match="mmcs"):
        agreement_figure(agreement, "mmc")


def test_histograms_lie_where_the_similarities_are(agreement, hostile):
    figure = similarity_histogram(agreement, [("sae", "sae-2"), ("random", hostile)])
    (bars,) = figure.data  # the other pair has no values
    assert [x for x, y in zip(bars.x, bars.y, strict=True) if y] == [pytest.approx(0.925)]
    assert sum(bars.y) == 7
    assert figure.layout.annotations[0].text == "sae in sae-2: mean 0.90 (chance 0.50)"
    assert figure.layout.xaxis.range == (pytest.approx(0.825), 1.02), "the axis has no empty half"
    look = {"sae": Look("#123456", "circle", "solid")}
    (bars,) = similarity_histogram(agreement, [("sae", "sae-2")], style=look).data
    assert bars.marker.color == "#123456"
    assert len(similarity_histogram(agreement).data) == 11
    assert len(similarity_histogram(agreement, quantity="correlation").data) == 0
    with pytest.raises(InputError, match="'cosine' or 'correlation'"):
        similarity_histogram(agreement, quantity="angle")
    with pytest.raises(InputError, match="no pair"):
        similarity_histogram(agreement, [("sae", "nobody")])


def test_chance_is_the_similarity_with_random_directions(agreement, hostile):
    assert chance(agreement, "sae", "sae-2", "mmcs") == 0.5
    assert math.isnan(chance(agreement, "random", "sae", "mmcs")), "not with itself"
    assert math.isnan(chance(agreement, "sae", "sae-2", "correlation"))
    agreement.dictionaries["sae-2"] = replace(agreement.dictionaries["sae-2"], n_features=8)
    assert math.isnan(chance(agreement, "sae", "sae-2", "mmcs")), "that of another width"


def test_the_chance_level_of_the_column_is_in_the_cell_and_beside_it(agreement):
    levels = {GAUSSIAN: {"mmcs": 0.125}, ROWS: {"mmcs": 0.25}}
    beside = replace(agreement.pair("sae", "sae-2"), controls=levels)
    others = [pair for pair in agreement.pairs if (pair.first, pair.second) != ("sae", "sae-2")]
    records = replace(agreement, pairs=[beside, *others])
    (drawn,) = agreement_figure(records).data
    assert re.findall(r"\d\.\d\d", drawn.text[0][1]) == ["0.90", "0.12"]
    assert re.findall(r"\d\.\d\d", drawn.text[1][0]) == ["0.80", "0.50"], "of the baseline random"
    assert drawn.text[0][3] == "0.50", "a control is its own chance level"
    assert drawn.text[0][0] == drawn.text[3][2] == ""
    assert drawn.customdata[0][1].split("<br>")[2:] == [
        "mean max cosine similarity 0.900",
        "with as many random directions 0.125",
        "with as many rows of data 0.250",
    ]
    text = similarity_histogram(records, [("sae", "sae-2")]).layout.annotations[0].text
    assert text == "sae in sae-2: mean 0.90 (chance 0.12)"
