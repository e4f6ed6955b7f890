"""Quality against sparsity: the figure that compares dictionaries."""

import math
from html import escape
from itertools import groupby

import plotly.graph_objects as go

from dictlearn.comparison.style import INK, Look, log_axis, looks, styled
from dictlearn.comparison.vocabulary import (
    KEY_METRICS,
    LABELS,
    baselines,
    formatted,
    is_baseline,
    require_metric,
    trained,
    value_of,
)
from dictlearn.core.records import DictionaryRecord, Records


def sparsity_figure(records: Records, metric: str = "loss_recovered_zero") -> go.Figure:
    """`metric` against L0 on a logarithmic axis, one mark a dictionary.

    Thin lines join the dictionaries of one kind at one pair of sites. A baseline that is not
    sparse (L0 of 0, or at least half as many active features as its target has dimensions) is a
    horizontal line. A baseline farther than 1 from every trained dictionary is drawn at the edge
    of the axis as a triangle beside its value. Undefined values are left out.

    Raises:
        InputError: there is no such metric.
    """
    require_metric(metric)
    shown = {
        name: record
        for name, record in records.dictionaries.items()
        if math.isfinite(value_of(record, metric)) and math.isfinite(value_of(record, "l0"))
    }
    lines = {name: value_of(r, metric) for name, r in shown.items() if _is_reference(r)}
    marks = {
        name: r for name, r in shown.items() if name not in lines and value_of(r, "l0") > 0
    }  # fmt: skip
    limits = _limits(records, metric)
    style = looks(records)
    figure = go.Figure()
    _add_curves(figure, marks, metric, style)
    for name, record in marks.items():
        figure.add_trace(_mark(name, record, metric, style[name], limits))
    _add_references(figure, lines, limits, metric)
    axis = log_axis([value_of(record, "l0") for record in marks.values()])
    figure.update_xaxes(title="L0: active features per token", **axis)
    figure.update_yaxes(title=LABELS[metric], range=limits)
    return styled(figure, height=480)


def _is_reference(record: DictionaryRecord) -> bool:
    l0 = value_of(record, "l0")
    return is_baseline(record) and (l0 == 0 or l0 >= record.sites.target.d / 2)


def _limits(records: Records, metric: str) -> tuple[float, float] | None:
    """The ends of the value axis, with a margin; None where there is nothing to show."""
    finite = math.isfinite
    core = [v for r in trained(records).values() if finite(v := value_of(r, metric))]
    rest = [v for r in baselines(records).values() if finite(v := value_of(r, metric))]
    core = core or rest
    if not core:
        return None
    near = [v for v in rest if min(core) - 1 <= v <= max(core) + 1]
    low, high = min(core + near), max(core + near)
    margin = 0.07 * (high - low) or 0.1
    return low - margin, high + margin


def _add_curves(
    figure: go.Figure, marks: dict[str, DictionaryRecord], metric: str, style: dict[str, Look]
) -> None:
    def family(name: str) -> tuple[str, str]:
        return marks[name].kind, str(marks[name].sites)

    ordered = sorted(marks, key=lambda name: (family(name), value_of(marks[name], "l0")))
    for key, names in groupby(ordered, key=family):
        members = list(names)
        if len(members) > 1 and not is_baseline(marks[members[0]]):
            figure.add_scatter(
                x=[value_of(marks[name], "l0") for name in members],
                y=[value_of(marks[name], metric) for name in members],
                mode="lines", name=key[0], showlegend=False, hoverinfo="skip",
                line={"color": style[members[0]].colour, "width": 1}, opacity=0.6,
            )  # fmt: skip


def _mark(
    name: str,
    record: DictionaryRecord,
    metric: str,
    look: Look,
    limits: tuple[float, float] | None,
) -> go.Scatter:
    value = value_of(record, metric)
    low, high = limits or (value, value)
    off = not low <= value <= high
    symbol = look.symbol if not off else f"triangle-{'down' if value < low else 'up'}"
    return go.Scatter(
        x=[value_of(record, "l0")], y=[min(max(value, low), high)], name=escape(name),
        mode="markers+text" if off else "markers", cliponaxis=False,
        text=formatted(metric, value) if off else "", textposition="middle left",
        marker={"color": look.colour, "symbol": symbol, "size": 10,
                "line": {"width": 2 if symbol.endswith("-open") else 0, "color": look.colour}},
        hovertemplate=f"{hover_text(name, record)}<extra></extra>",
    )  # fmt: skip


def hover_text(name: str, record: DictionaryRecord) -> str:
    """The key numbers of a dictionary, one a line, escaped for a hover box."""
    seed = "" if record.seed is None else f", seed {record.seed}"
    numbers = [f"{LABELS[key]} {formatted(key, value_of(record, key))}" for key in KEY_METRICS]
    about = f"{escape(record.kind)}, {record.n_features:,} features{seed}"
    return "<br>".join([f"<b>{escape(name)}</b>", about, escape(str(record.sites)), *numbers])


def _add_references(
    figure: go.Figure, lines: dict[str, float], limits: tuple[float, float] | None, metric: str
) -> None:
    """Horizontal lines; those that nearly coincide share a label."""
    if limits is None:
        return
    low, high = limits
    groups: list[list[str]] = []
    for name in sorted(lines, key=lambda name: lines[name]):
        if groups and lines[name] - lines[groups[-1][0]] < 0.05 * (high - low):
            groups[-1].append(name)
        else:
            groups.append([name])
    for names in groups:
        for name in names:
            y = min(max(lines[name], low), high)
            figure.add_hline(y=y, line={"color": INK, "width": 1, "dash": "dot"})
        label = ", ".join(f"{escape(name)} {formatted(metric, lines[name])}" for name in names)
        middle = min(max(lines[names[0]], low), high)
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=middle, showarrow=False, text=label,
            yanchor="bottom" if middle < (low + high) / 2 else "top", font={"size": 12},
        )  # fmt: skip
