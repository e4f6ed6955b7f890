"""The section on similarity, from records made by hand."""

import math
import re
from dataclasses import replace

from dictlearn.comparison.figures.agreement import agreement_figure
from dictlearn.comparison.report.agreement import agreement_data
from dictlearn.comparison.report.templates import render
from dictlearn.records.agreement import GAUSSIAN


def agreement_section(records):
    return render("agreement.html.jinja", agreement=agreement_data(records))


def test_cells_have_one_size_whatever_the_number_of_dictionaries(make_agreement):
    few, many = (make_agreement({f"sae-{i:02}": "sae" for i in range(n)}, {}) for n in (3, 14))
    widths = [agreement_figure(records).layout.width for records in (few, many)]
    assert widths[1] - widths[0] == 11 * 46
    assert "The first 12 of 14 dictionaries are shown." in agreement_section(many)


def test_the_section_says_what_is_known_and_why_not_the_rest(agreement, hostile):
    text = agreement_section(agreement)
    assert text.startswith('<section id="agreement"><h2>')
    assert 'id="figure-agreement-mmcs"' in text
    assert 'id="figure-agreement-matched"' in text
    assert "figure-agreement-correlation" not in text
    assert 'id="figure-similarity-cosine"' in text
    assert "sae in sae-2: mean 0.90" in text
    assert "Chance level: 0.50 of learned features with as many random directions as" in text
    assert "Read a row from left to right" in text
    assert "effective number of neurons" in text
    assert "1 – 2 – 3" in text
    assert '<th scope="col">ultralow density' not in text, "no dictionary has a value"
    assert "Columns without a value: 4</summary>" in text
    assert "ultralow density: too few rows" in text
    assert hostile not in text
    assert text.index('name">sae<') < text.index('name">random<')


def test_columns_with_a_value_are_shown_with_the_reasons_for_those_missing(agreement, make_summary):
    counted = make_summary("sae", never_active_share=0.25, ultralow_share=0.5, ultralow_cosine=0.1)
    agreement.dictionaries["sae"] = counted
    text = agreement_section(agreement)
    heads = re.findall(r'<th scope="col">([^<]*)</th>', text)
    assert heads == ["features", "effective number of neurons (quartiles)", "dead",
                     "ultralow density", "cosine with their mean"]  # fmt: skip
    assert "<td>25.0%</td><td>50.0%</td><td>0.100</td>" in text
    assert "¹ too few rows" in text
    assert "on less than 1e-05 of the tokens" in text
    assert "Columns without a value: 1</summary>" in text


def test_the_chance_level_covers_the_widths_of_the_columns(agreement):
    pairs = [
        replace(pair, controls={GAUSSIAN: {"mmcs": level}})
        for pair, level in zip(agreement.pairs, (0.2, *[0.3] * 10, 0.4), strict=True)
    ]
    text = agreement_section(replace(agreement, pairs=pairs))
    assert "Chance level: 0.30 to 0.40 of learned features" in text, "the first is a baseline's"


def test_a_dictionary_without_any_value_is_not_in_a_map(make_agreement):
    kinds = {"a": "sae", "b": "sae", "mean": "mean"}
    values = {(x, y): math.nan for x in kinds for y in kinds if "mean" in (x, y)}
    figure = agreement_figure(make_agreement(kinds, values))
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext == ("a", "b")


def test_a_shared_initialization_is_mentioned(make_agreement, make_summary):
    records = make_agreement({"a": "sae", "b": "topk", "c": "sae", "pca": "pca", "r": "random"}, {})
    seeds = {"a": 0, "b": 0, "c": 1, "pca": 0, "r": 0}
    for name, kind in (("a", "sae"), ("b", "topk"), ("c", "sae"), ("pca", "pca"), ("r", "random")):
        records.dictionaries[name] = make_summary(kind, seed=seeds[name])
    text = agreement_section(records)
    assert "a, b, r have the same seed and size" in text
    assert text.count("have the same seed") == 1
