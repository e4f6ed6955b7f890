"""Average precision of features against that of baselines."""

from dataclasses import replace

from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.records.concepts import Family


def test_marks_lie_at_both_average_precisions(concepts):
    traces = {trace.name: trace for trace in precision_figure(concepts).data}
    assert list(traces) == ["d", "&lt;other&gt;", "against neurons", "against principal components"]
    own = traces["d"]
    assert (own.x[1:], own.y[1:]) == ((0.6, 0.4), (0.9, 0.6))
    assert own.marker.symbol[1:] == ("circle", "circle-open")
    assert own.marker.color[1] != traces["&lt;other&gt;"].marker.color[1]
    for words in ("<b>comma</b> in d", "&lt;,&gt;", "feature 0: 0.90 (0.90 to 0.90)",
                  "random 0: 0.60 (0.60 to 0.60)", "chance level 0.100: 50 tokens",
                  "at its threshold: precision 0.50, recall 0.40"):  # fmt: skip
        assert words in own.customdata[1]
    assert traces["against neurons"].visible == "legendonly"
    assert traces["against principal components"].x == (None, 0.2)


def test_the_legend_shows_filled_marks_whatever_the_first_concept(concepts):
    """The legend has the symbol and the colour of the first mark, which is drawn nowhere."""
    scores = [s for s in concepts.scores if s.concept == "she"]  # not significant
    trace = precision_figure(replace(concepts, scores=scores)).data[0]
    assert trace.marker.symbol == ("circle", "circle-open")
    assert trace.marker.color[0] == trace.marker.color[1]
    assert (trace.x[0], trace.y[0]) == (None, None)


def test_without_random_features_another_family_is_the_baseline(concepts):
    scores = [s for s in concepts.scores if s.family in (Family.FEATURES, Family.PCA)]
    figure = precision_figure(replace(concepts, scores=scores))
    assert [trace.name for trace in figure.data] == ["d"]
    assert figure.layout.xaxis.title.text == "average precision of the best principal component"
    assert len(precision_figure(replace(concepts, scores=scores[:1])).data) == 0
