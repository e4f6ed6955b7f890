"""The section on similarity, from records made by hand."""

from dictlearn.comparison.figures.agreement import (
    agreement_figure,
)
from dictlearn.comparison.report.agreement import agreement_data
from dictlearn.comparison.report.templates import render


def agreement_section(records):
    return render("agreement.html.jinja", agreement=agreement_data(records))


def test_many_dictionaries_scroll_in_a_box_of_their_own(make_agreement):
    few, many = (make_agreement({f"sae-{i}": "sae" for i in range(n)}, {}) for n in (3, 14))
    assert agreement_figure(few).layout.width is None
    assert agreement_figure(many).layout.width > 500
    start = '<div class="scroll"><div class="plot" '
    assert start not in agreement_section(few)
    assert agreement_section(many).count(start) == 2
    assert "The first 12 of 14 dictionaries are shown." in agreement_section(many)


def test_the_section_says_what_is_known_and_why_not_the_rest(agreement, hostile):
    text = agreement_section(agreement)
    assert text.startswith('<section id="agreement"><h2>')
    assert 'id="figure-agreement-mmcs"' in text
    assert 'id="figure-agreement-matched"' in text
    assert "figure-agreement-correlation" not in text
    assert 'id="figure-similarity-cosine"' in text
    assert "sae in sae-2: mean 0.90" in text
    assert "Chance level: 0.50 of learned features with as many random directions." in text
    assert "Read a row from left to right" in text
    assert "effective number of neurons" in text
    assert "1 – 2 – 3" in text
    assert "¹ too few rows" in text
    assert hostile not in text
    assert text.index('name">sae<') < text.index('name">random<')


def test_a_shared_initialization_is_mentioned(make_agreement, make_summary):
    records = make_agreement({"a": "sae", "b": "topk", "c": "sae", "pca": "pca", "r": "random"}, {})
    seeds = {"a": 0, "b": 0, "c": 1, "pca": 0, "r": 0}
    for name, kind in (("a", "sae"), ("b", "topk"), ("c", "sae"), ("pca", "pca"), ("r", "random")):
        records.dictionaries[name] = make_summary(kind, seed=seeds[name])
    text = agreement_section(records)
    assert "a, b, r have the same seed and size" in text
    assert text.count("have the same seed") == 1
