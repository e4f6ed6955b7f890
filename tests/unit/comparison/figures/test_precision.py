"""Average precision of features against that of baselines."""

from dataclasses import replace

from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.comparison.figures.style import looks
from dictlearn.records.concepts import Family


def test_marks_lie_at_both_average_precisions(concepts):
    traces = {trace.name: trace for trace in precision_figure(concepts).data}
    assert list(traces) == ["d", "&lt;other&gt;", "against neurons", "against principal components"]
    own = traces["d"]
    assert (own.x, own.y) == ((0.6, 0.4), (0.9, 0.6))
    assert own.marker.symbol == ("circle", "circle-open")
    assert own.marker.color[0] != traces["&lt;other&gt;"].marker.color[0]
    for words in ("<b>comma</b> in d", "&lt;,&gt;", "feature 0: 0.90 (0.90 to 0.90)",
                  "random 0: 0.60 (0.60 to 0.60)", "chance level 0.100: 50 tokens",
                  "at its threshold: precision 0.50, recall 0.40"):  # fmt: skip
        assert words in own.customdata[0]
    assert traces["against neurons"].visible == "legendonly"
    assert traces["against principal components"].x == (0.2,)


def test_the_legend_shows_filled_marks_whatever_the_concepts(concepts):
    scores = [s for s in concepts.scores if s.concept == "she"]  # not significant
    entry, marks, *_ = precision_figure(replace(concepts, scores=scores)).data
    assert marks.marker.symbol == ("circle-open",)
    assert (entry.marker.symbol, entry.marker.color) == ("circle", marks.marker.color[0])
    assert (entry.x, entry.y, entry.hoverinfo) == ((None,), (None,), "skip")
    assert (entry.name, entry.legendgroup) == (marks.name, marks.legendgroup)
    assert (entry.showlegend, marks.showlegend) == (None, False)


def test_a_baseline_among_the_dictionaries_has_filled_and_open_marks_too(records, concepts):
    scores = [replace(s, dictionary="mean") for s in concepts.scores if s.dictionary == "d"]
    style = looks(records)
    assert style["mean"].symbol.endswith("-open")
    _, marks, *_ = precision_figure(replace(concepts, scores=scores), style).data
    assert marks.marker.symbol == (style["mean"].shape, f"{style['mean'].shape}-open")
    assert not style["mean"].shape.endswith(("-open", "-thin")), "a shape that can be filled"


def test_without_random_features_another_family_is_the_baseline(concepts):
    scores = [s for s in concepts.scores if s.family in (Family.FEATURES, Family.PCA)]
    figure = precision_figure(replace(concepts, scores=scores))
    assert {trace.name for trace in figure.data} == {"d"}
    assert figure.layout.xaxis.title.text == "average precision of the best principal component"
    assert len(precision_figure(replace(concepts, scores=scores[:1])).data) == 0
