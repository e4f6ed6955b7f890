"""Scatter plot of the average precision of features against that of baselines."""

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import INK, Look, default_looks, plain, styled
from dictlearn.comparison.statistics.precision import BASELINES, families_of
from dictlearn.records.concepts import ConceptRecords, ConceptScore, Family

_Points = list[tuple[ConceptScore, ConceptScore]]


def precision_figure(records: ConceptRecords, style: Mapping[str, Look] | None = None) -> go.Figure:
    """Average precision of the feature against that of the baseline, one mark per concept.

    Above the diagonal, the feature is better. Filled marks: the 95 % interval of the difference
    excludes 0. The baseline is the best of as many random features, or the best of the first
    family in the records; other families can be shown by clicking in the legend. `style` sets the
    colours and shapes of dictionaries, to match other figures.
    """
    names = dict.fromkeys(score.dictionary for score in records.scores)
    known = style or {}
    style = {name: known.get(name, look) for name, look in default_looks(names).items()}
    families = families_of(records)
    figure = go.Figure()
    ends = {"x0": 0, "y0": 0, "x1": 1, "y1": 1, "layer": "below"}
    figure.add_shape(type="line", line={"color": INK, "dash": "dot", "width": 1}, **ends)
    for name in style:
        points = _points(records, families[:1], name)
        if points:
            figure.add_traces(_marks(records, points, plain(name), style, style[name].shape))
    for family in families[1:]:
        points = _points(records, [family], None)
        if points:
            label = f"against {BASELINES[family]}s"
            for trace in _marks(records, points, label, style, "diamond"):
                figure.add_trace(trace.update(visible="legendonly"))
    baseline = f"best {BASELINES[families[0]]}" if families else "baseline"
    figure.update_xaxes(title=f"average precision of the {baseline}", range=(-0.02, 1.03))
    figure.update_yaxes(title="average precision of the feature", range=(-0.02, 1.03))
    return styled(figure, height=460).update_layout(showlegend=True)


def _points(records: ConceptRecords, families: list[Family], name: str | None) -> _Points:
    """Pairs of feature and baseline, of one dictionary or of all."""
    features = {(s.concept, s.dictionary): s for s in records.scores if s.family is Family.FEATURES}
    return [
        (features[s.concept, s.dictionary], s)
        for s in records.scores
        if s.family in families and name in (None, s.dictionary)
    ]


def _marks(
    records: ConceptRecords,
    points: _Points,
    label: str,
    style: dict[str, Look],
    shape: str,
) -> tuple[go.Scatter, go.Scatter]:
    """The entry in the legend, a filled mark without a place, and the marks of all concepts."""
    significant = [b.advantage_low > 0 or b.advantage_high < 0 for _, b in points]
    colours = [style[own.dictionary].colour for own, _ in points]
    marks = go.Scatter(
        x=[baseline.average_precision for _, baseline in points],
        y=[own.average_precision for own, _ in points],
        mode="markers", name=label, legendgroup=label, showlegend=False,
        marker={
            "size": 10, "color": colours,
            "symbol": [shape if s else f"{shape}-open" for s in significant],
            "line": {"width": 1.5},
        },
        customdata=[_hover(records, own, baseline) for own, baseline in points],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    filled = {"size": 10, "color": colours[0], "symbol": shape}
    entry = go.Scatter(x=[None], y=[None], mode="markers", name=label, legendgroup=label,
                       marker=filled, hoverinfo="skip")  # fmt: skip
    return entry, marks


def _hover(records: ConceptRecords, own: ConceptScore, baseline: ConceptScore) -> str:
    pattern = records.patterns.get(own.concept, "")
    sign = "-" if baseline.sign < 0 else ""
    return "<br>".join(
        [
            f"<b>{plain(own.concept)}</b> in {plain(own.dictionary)}",
            plain(pattern if len(pattern) <= 60 else f"{pattern[:59]}…"),
            f"feature {plain(own.candidate)}: {_interval(own)}",
            f"{plain(baseline.family)} {sign}{plain(baseline.candidate)}: {_interval(baseline)}",
            f"chance level {own.base_rate:.3f}: {own.n_matches:,} tokens have the concept",
            f"the feature at its threshold: precision {own.precision:.2f}, recall {own.recall:.2f}",
        ]
    )


def _interval(score: ConceptScore) -> str:
    value = f"{score.average_precision:.2f}"
    if math.isnan(score.average_precision_low):
        return value
    return f"{value} ({score.average_precision_low:.2f} to {score.average_precision_high:.2f})"
