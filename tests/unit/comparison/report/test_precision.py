"""The section on concepts."""

from dictlearn.comparison.report.html import precision_data
from dictlearn.comparison.report.templates import render


def test_the_section_has_the_shares_and_the_naive_number(concepts):
    text = render("precision.html.jinja", concepts=precision_data(concepts))
    assert (
        "<b>d</b>: features better than neurons for 67% of 3 concepts (33% significantly better, "
        "0% significantly worse); naively 67%." in text
    )
    assert "<b>&lt;other&gt;</b>: features better than neurons for 0% of 1 concepts" in text
    assert 'id="precision"' in text
    assert "day: 3 &amp; 4 matches" in text
    assert "<other>" not in text.replace("\\u003cother\\u003e", "")
    assert text.count("<tr>") == 1 + 3
