"""Are features better than neurons? Precision over all concepts, from concept records alone."""

import math
from html import escape

import pandas as pd
import plotly.graph_objects as go

from dictlearn.comparison.page import note, plot, section, table
from dictlearn.comparison.style import INK, Look, default_looks, styled
from dictlearn.comparison.vocabulary import MISSING
from dictlearn.records.concepts import ConceptRecords, ConceptScore

RIVALS = ("neurons", "basis", "pca")
"""Families beside the features, in order of interest."""
_PRECISIONS = ("features", "rival")
_Points = list[tuple[ConceptScore, ConceptScore]]


def precision_frame(records: ConceptRecords) -> pd.DataFrame:
    """One row for each dictionary and rival family: precision of features beside its own.

    Columns, for candidates scored on text that they were not chosen on:

    * `n_concepts`: concepts over which the rest is taken;
    * `features`, `rival`: mean precision, over concepts where both have one;
    * `better`: share of concepts where the feature is the more precise;
    * `surely_better`, `surely_worse`: shares where the interval of the difference excludes 0;
    * `naive_features`, `naive_rival`, `naive_better`: the same with candidates scored on the text
      that they were chosen on (Tamkin et al. 2023, figure 6), which flatters both, and most those
      with many candidates and few matches.
    """
    frame = records.to_pandas()
    features = frame[frame.family == "features"].set_index(["concept", "dictionary"])
    rows = {}
    rivals = frame[frame.family != "features"]
    for key, rival in rivals.groupby(["dictionary", "family"], sort=False):
        rival = rival.set_index(["concept", "dictionary"])
        own = features.loc[rival.index]
        defined = rival.advantage.notna()
        rows[key] = {
            "n_concepts": len(rival),
            "features": own.precision[defined].mean(),
            "rival": rival.precision[defined].mean(),
            "better": (rival.advantage > 0).mean(),
            "surely_better": (rival.advantage_low > 0).mean(),
            "surely_worse": (rival.advantage_high < 0).mean(),
            "naive_features": own.naive_precision.mean(),
            "naive_rival": rival.naive_precision.mean(),
            "naive_better": (own.naive_precision > rival.naive_precision).mean(),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.rename_axis(["dictionary", "family"])


def precision_figure(records: ConceptRecords) -> go.Figure:
    """Precision of the feature against that of the best rival, one mark a concept.

    Above the line the feature finds the concept more precisely, on text that neither was chosen
    on. A filled mark says that the interval of the difference excludes 0. The rivals are the
    neurons, or the first family there is; a click in the legend shows the others.
    """
    style = default_looks(dict.fromkeys(score.dictionary for score in records.scores))
    families = _families(records)
    figure = go.Figure()
    ends = {"x0": 0, "y0": 0, "x1": 1, "y1": 1, "layer": "below"}
    figure.add_shape(type="line", line={"color": INK, "dash": "dot", "width": 1}, **ends)
    for name in style:
        points = _points(records, families[:1], name)
        if points:
            figure.add_trace(_marks(records, points, escape(name), style))
    for family in families[1:]:
        points = _points(records, [family], None)
        if points:
            trace = _marks(records, points, f"against {family}", style, "diamond")
            figure.add_trace(trace.update(visible="legendonly"))
    rival = f"best of the {families[0]}" if families else "best rival"
    figure.update_xaxes(title=f"precision of the {rival}", range=(-0.02, 1.03))
    figure.update_yaxes(title="precision of the feature", range=(-0.02, 1.03))
    return styled(figure, height=460).update_layout(showlegend=True)


def precision_section(records: ConceptRecords) -> str:
    """The section of a report about concepts: the figure, what it says, and a table; HTML."""
    frame = precision_frame(records)
    text = (
        f"How precisely features find {len(records.patterns)} concepts that patterns define, "
        "beside the model's own directions. Feature, threshold and rival were chosen on one half "
        "of the text; precision is that on the other half, at equal recall. Filled marks: the "
        "95 % interval of the difference excludes 0. The naive numbers are from the half that the "
        "candidates were chosen on, which flatters whoever has most of them."
    )
    lines = "".join(f"<p>{line}</p>" for line in _findings(records, frame))
    columns = {"n_concepts": "concepts", "features": "precision of features",
               "rival": "precision of rival", "better": "features better",
               "surely_better": "surely better", "surely_worse": "surely worse",
               "naive_better": "naive: better"}  # fmt: skip
    head = [f'<th scope="col">{label}</th>' for label in columns.values()]
    head.insert(0, '<th scope="col" class="text">rival</th>')
    rows = [_row(name, family, found, list(columns)) for (name, family), found in frame.iterrows()]
    body = table(['<th scope="col" class="name">dictionary</th>', *head], rows)
    reasons = "".join(note(f"{key}: {reason}") for key, reason in records.left_out.items())
    left_out = f"<details><summary>What was left out</summary>{reasons}</details>"
    return section(
        "Are features better than neurons?",
        note(text),
        lines,
        plot(precision_figure(records), "precision"),
        body,
        left_out if reasons else "",
    )


def _families(records: ConceptRecords) -> list[str]:
    there = {score.family for score in records.scores}
    return [family for family in RIVALS if family in there]


def _points(records: ConceptRecords, families: list[str], name: str | None) -> _Points:
    """Feature and rival, where both have a precision; of one dictionary or of all."""
    features = {(s.concept, s.dictionary): s for s in records.scores if s.family == "features"}
    pairs = [
        (features[s.concept, s.dictionary], s)
        for s in records.scores
        if s.family in families and name in (None, s.dictionary)
    ]
    return [
        (own, rival)
        for own, rival in pairs
        if math.isfinite(own.precision) and math.isfinite(rival.precision)
    ]


def _marks(
    records: ConceptRecords,
    points: _Points,
    label: str,
    style: dict[str, Look],
    shape: str = "circle",
) -> go.Scatter:
    sure = [rival.advantage_low > 0 or rival.advantage_high < 0 for _, rival in points]
    return go.Scatter(
        x=[rival.precision for _, rival in points], y=[own.precision for own, _ in points],
        mode="markers", name=label,
        marker={
            "size": 10, "color": [style[own.dictionary].colour for own, _ in points],
            "symbol": [shape if s else f"{shape}-open" for s in sure], "line": {"width": 1.5},
        },
        customdata=[_hover(records, own, rival) for own, rival in points],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _hover(records: ConceptRecords, own: ConceptScore, rival: ConceptScore) -> str:
    pattern = records.patterns.get(own.concept, "")
    sign = "-" if rival.sign < 0 else ""
    return "<br>".join(
        [
            f"<b>{escape(own.concept)}</b> in {escape(own.dictionary)}",
            escape(pattern if len(pattern) <= 60 else f"{pattern[:59]}…"),
            f"feature {own.candidate}: {_interval(own)}",
            f"{rival.family} {sign}{rival.candidate}: {_interval(rival)}",
            f"at recall {own.recall:.2f} of {own.n_matches:,} tokens",
        ]
    )


def _interval(score: ConceptScore) -> str:
    return f"{score.precision:.2f} ({score.precision_low:.2f} to {score.precision_high:.2f})"


def _findings(records: ConceptRecords, frame: pd.DataFrame) -> list[str]:
    """A sentence a dictionary: how often its features are better, and naively."""
    rival = next(iter(_families(records)), "")
    return [
        f"<b>{escape(str(name))}</b>: features better than {family} for {found.better:.0%} of "
        f"{int(found.n_concepts)} concepts ({found.surely_better:.0%} surely better, "
        f"{found.surely_worse:.0%} surely worse); naively {found.naive_better:.0%}."
        for (name, family), found in frame.iterrows()
        if family == rival
    ]


def _row(name: str, family: str, found: pd.Series, columns: list[str]) -> str:
    cells = []
    for column in columns:
        value = float(found[column])
        digits = ".0f" if column == "n_concepts" else ".3f" if column in _PRECISIONS else ".0%"
        cells.append(f"<td>{format(value, digits) if math.isfinite(value) else MISSING}</td>")
    head = f'<th scope="row" class="name">{escape(name)}</th>'
    return f'<tr>{head}<td class="text">{family}</td>{"".join(cells)}</tr>'
