"""Features beside their rivals, counted by hand."""

from math import nan

import pytest

from dictlearn.comparison.concepts import precision_figure, precision_frame, precision_section
from dictlearn.core.provenance import Provenance
from dictlearn.records.concepts import ConceptRecords, ConceptScore


def score(concept, family, precision, naive, advantage=(nan, nan, nan), dictionary="d"):
    return ConceptScore(
        concept, dictionary, family, 0, 1, nan, 50, 0.5, precision, precision, precision,
        *advantage, naive_recall=0.5, naive_precision=naive, average_precision=0.5, f1=0.5,
    )  # fmt: skip


def test_by_hand():
    scores = [
        score("comma", "features", 0.9, 0.95),
        score("comma", "neurons", 0.5, 0.6, (0.4, 0.2, 0.6)),
        score("she", "features", 0.6, 0.7),
        score("she", "neurons", 0.5, 0.8, (0.1, -0.1, 0.3)),
        score("day", "features", 0.3, 0.5),
        score("day", "neurons", 0.5, 0.6, (-0.2, -0.3, -0.1)),
        score("time", "features", nan, 0.4),  # the feature never met it again
        score("time", "neurons", nan, 0.3),
        score("comma", "features", 0.1, 0.1, dictionary="other"),
        score("comma", "neurons", 0.2, 0.1, (-0.1, -0.2, 0.1), dictionary="other"),
    ]
    frame = precision_frame(ConceptRecords(Provenance(), {}, {}, scores, {}))
    assert frame.index.tolist() == [("d", "neurons"), ("other", "neurons")]
    found = frame.loc[("d", "neurons")]
    assert found.n_concepts == 4
    assert found.features == pytest.approx(0.6)
    assert found.rival == pytest.approx(0.5)
    assert (found.better, found.surely_better, found.surely_worse) == (0.5, 0.25, 0.25)
    assert found.naive_features == pytest.approx((0.95 + 0.7 + 0.5 + 0.4) / 4)
    assert found.naive_rival == pytest.approx((0.6 + 0.8 + 0.6 + 0.3) / 4)
    assert found.naive_better == 0.5
    assert frame.loc[("other", "neurons")].better == 0


SCORES = [
    score("comma", "features", 0.9, 0.95),
    score("comma", "neurons", 0.5, 0.6, (0.4, 0.2, 0.6)),
    score("comma", "pca", 0.2, 0.3, (0.7, 0.6, 0.8)),
    score("she", "features", 0.6, 0.7),
    score("she", "neurons", 0.5, 0.8, (0.1, -0.1, 0.3)),
    score("time", "features", nan, 0.4),
    score("time", "neurons", nan, 0.3),
    score("comma", "features", 0.3, 0.3, dictionary="<other>"),
    score("comma", "neurons", 0.5, 0.6, (-0.2, -0.3, -0.1), dictionary="<other>"),
]
PATTERNS = {"comma": "<,>", "she": r"\b[Ss]he\b", "time": "time"}
RECORDS = ConceptRecords(Provenance(), {}, PATTERNS, SCORES, {"day": "3 & 4 matches"})


def test_marks_lie_at_both_precisions():
    traces = {trace.name: trace for trace in precision_figure(RECORDS).data}
    assert list(traces) == ["d", "&lt;other&gt;", "against pca"]
    own = traces["d"]
    assert (own.x, own.y) == ((0.5, 0.5), (0.9, 0.6))  # without the concept that has none
    assert own.marker.symbol == ("circle", "circle-open")
    assert own.marker.color[0] != traces["&lt;other&gt;"].marker.color[0]
    for words in ("<b>comma</b> in d", "&lt;,&gt;", "feature 0: 0.90 (0.90 to 0.90)",
                  "neurons 0: 0.50 (0.50 to 0.50)", "at recall 0.50 of 50 tokens"):  # fmt: skip
        assert words in own.customdata[0]
    assert traces["against pca"].visible == "legendonly"
    assert (traces["against pca"].x, traces["against pca"].y) == ((0.2,), (0.9,))


def test_without_neurons_another_family_is_the_rival():
    scores = [s for s in SCORES if s.family != "neurons"]
    figure = precision_figure(ConceptRecords(Provenance(), {}, PATTERNS, scores, {}))
    assert [trace.name for trace in figure.data] == ["d"]
    assert figure.layout.xaxis.title.text == "precision of the best of the pca"
    alone = ConceptRecords(Provenance(), {}, PATTERNS, scores[:1], {})
    assert len(precision_figure(alone).data) == 0


def test_the_section_has_the_shares_and_the_naive_number():
    text = precision_section(RECORDS)
    assert (
        "<b>d</b>: features better than neurons for 67% of 3 concepts (33% surely better, 0% "
        "surely worse); naively 67%." in text
    )
    assert "<b>&lt;other&gt;</b>: features better than neurons for 0% of 1 concepts" in text
    assert 'id="precision"' in text
    assert "day: 3 &amp; 4 matches" in text
    assert "<other>" not in text.replace("\\u003cother\\u003e", "")
    assert text.count("<tr>") == 1 + 3
