"""The section on concepts."""

import pytest

from dictlearn.comparison.report.concepts import concept_verdicts, concepts_summary
from dictlearn.comparison.report.html import precision_data
from dictlearn.comparison.report.markdown import results_page
from dictlearn.comparison.report.templates import render
from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.comparison.tables.concepts import precision_table


def test_the_section_has_the_verdict_and_the_reasons(concepts):
    text = render("precision.html.jinja", concepts=precision_data(concepts))
    assert "for 100% of 2 concepts; the best random feature is for 50%." in text
    assert (
        "The best feature of &lt;other&gt; is a better detector than the best neuron for 0%" in text
    )
    assert 'id="figure-precision"' in text
    assert "day: 3 &amp; 4 matches" in text
    assert "she: 3 sequences" in text
    assert "<other>" not in text.replace("\\u003cother\\u003e", "")
    assert text.count("<tr>") == 1 + 5 + 1 + 2 + 1 + 1, "with those of single concepts"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "better than"),
        (-0.3, -0.1, "worse than"),
        (-0.1, 0.3, "not distinguishable from"),
    ],
)
def test_the_verdict_follows_the_interval(concepts, low, high, said):
    frame = precision_frame(concepts)
    frame.loc[("d", "random"), ["difference_low", "difference_high"]] = low, high
    assert f"features are {said} as many random ones" in concept_verdicts(frame)[0]


def test_many_dictionaries_have_one_sentence_and_their_numbers_are_folded(concepts):
    frame = precision_frame(concepts)
    assert concepts_summary(frame.loc[["d"]]) == ""
    assert concepts_summary(frame.drop("random", level="family")) == ""
    ends = ["difference_low", "difference_high"]
    frame.loc[("d", "random"), ends] = -0.3, -0.1
    frame.loc[("<other>", "random"), ends] = 0.1, 0.3
    assert concepts_summary(frame) == (
        "As detectors of concepts, features are better than as many random ones: <other>; "
        "worse than as many random ones: d."
    )
    text = render("precision.html.jinja", concepts=precision_data(concepts))
    assert "not distinguishable from as many random ones: d, &lt;other&gt;.</p>\n<details>" in text
    assert "<summary>In numbers, for each of 2 dictionaries</summary>" in text


@pytest.mark.parametrize(("n", "said"), [(2, "0% to 100%"), (46, "36% to 64%")])
def test_the_verdict_says_how_many_concepts_chance_may_win(concepts, n, said):
    """Two standard errors of a fair coin about one half: 0.98 / sqrt(46) is 14 points."""
    frame = precision_frame(concepts)
    frame.loc[("d", "random"), "n_concepts"] = n
    assert f"of {n} concepts; by chance they would be for {said}." in concept_verdicts(frame)[0]


def test_the_page_says_what_better_means_and_who_wins(records, concepts):
    page = results_page(records, "title", concepts=concepts)
    section = page[page.index("## Are features better than neurons?") :]
    for words in ("average precision is 0.750 against 0.500 (+0.250, 95 % interval over concepts",
                  "is better if its average precision is larger", "which were never trained",
                  "selected on one half of the text and scored on the other"):  # fmt: skip
        assert words in section, words
    assert section.count("| d |") == 3
    assert all(
        heading in section for heading in precision_table(precision_frame(concepts)).headings
    )
