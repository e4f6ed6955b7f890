"""Precision of features against that of baselines."""

from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.core.provenance import Provenance
from dictlearn.records.concepts import ConceptRecords


def test_marks_lie_at_both_precisions(concepts):
    traces = {trace.name: trace for trace in precision_figure(concepts).data}
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


def test_without_neurons_another_family_is_the_baseline(concepts):
    scores = [s for s in concepts.scores if s.family != "neurons"]
    figure = precision_figure(ConceptRecords(Provenance(), {}, concepts.patterns, scores, {}))
    assert [trace.name for trace in figure.data] == ["d"]
    assert figure.layout.xaxis.title.text == "precision of the best of the pca"
    alone = ConceptRecords(Provenance(), {}, concepts.patterns, scores[:1], {})
    assert len(precision_figure(alone).data) == 0
