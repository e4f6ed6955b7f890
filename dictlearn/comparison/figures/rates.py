"""Rate-distortion figures: quality of reconstruction against L0 or bits per token."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import INK, MOST_NAMES, Look, log_axis, looks, plain, styled
from dictlearn.comparison.statistics.families import RATES, at_rate, families, require_rate
from dictlearn.comparison.statistics.intervals import intervals_of
from dictlearn.comparison.vocabulary import (
    KEY_METRICS,
    LABELS,
    baselines,
    formatted,
    in_order,
    require_metric,
    trained,
    value_of,
)
from dictlearn.metrics.intervals import Interval
from dictlearn.records.results import DictionaryRecord, Records


def rate_distortion_figure(
    records: Records, rate: str = "bits", quality: str = "fraction_variance_unexplained"
) -> go.Figure:
    """`quality` against `rate` ("bits" or "l0") on a logarithmic axis, one mark per dictionary.

    Against bits, the quality is that of quantized coefficients, which these bits pay for. Error
    bars of both are 95 % intervals over sequences. Thin lines connect the dictionaries of
    a family, separately for each training seed (`families`). Baselines with rate 0 are horizontal
    lines; if the rate is L0, so are those with at least half as many active features as the
    target has dimensions. The legend lists dictionaries, or kinds if there are many dictionaries.
    A baseline farther than 1 from every trained dictionary is drawn at the edge of the axis, as a
    triangle with its value. Undefined values are left out.

    Raises:
        InputError: there is no such metric or rate.
    """
    Records.require(records)
    require_rate(rate)
    require_metric(quality)
    records = in_order(at_rate(records, rate))
    shown = {
        name: record
        for name, record in records.dictionaries.items()
        if math.isfinite(value_of(record, quality)) and math.isfinite(value_of(record, rate))
    }
    lines = {n: value_of(r, quality) for n, r in shown.items() if _is_reference(r, rate)}
    marks = {n: r for n, r in shown.items() if n not in lines and value_of(r, rate) > 0}
    style = looks(records)
    figure = go.Figure()
    on_axis = replace(records, dictionaries=marks)
    spread = intervals_of(on_axis, (rate, quality))
    limits = _limits(records, quality, spread[quality])
    _add_curves(figure, on_axis, (rate, quality), style)
    _add_marks(figure, on_axis, (rate, quality), style, limits, spread)
    _add_references(figure, lines, limits, quality)
    ends = (_ends(value_of(record, rate), spread[rate].get(name)) for name, record in marks.items())
    figure.update_xaxes(
        title=f"{RATES[rate]} (log scale)", **log_axis([end for found in ends for end in found])
    )
    figure.update_yaxes(title=LABELS[quality], range=limits)
    return styled(figure, height=480)


def rate_distortion_figures(records: Records) -> dict[str, dict[str, go.Figure]]:
    """FVU and loss recovered by rate, first against bits per token, if these were measured."""
    return {
        rate: {
            quality: rate_distortion_figure(records, rate, quality)
            for quality in ("fraction_variance_unexplained", "loss_recovered_zero")
        }
        for rate in (("bits", "l0") if _bits_are_measured(records) else ("l0",))
    }


def _bits_are_measured(records: Records) -> bool:
    """Whether any trained dictionary other than a codebook has a cost in bits.

    Codebooks always have one, but alone they cannot be compared with anything.
    """
    group = trained(at_rate(records, "bits")).values()
    others = [record for record in group if math.isnan(value_of(record, "code_bits"))]
    return any(math.isfinite(value_of(record, "bits")) for record in others or group)


def _is_reference(record: DictionaryRecord, rate: str) -> bool:
    spent = value_of(record, rate)
    dense = rate == "l0" and spent >= record.sites.target.d / 2
    return record.baseline and (spent == 0 or dense)


def _bar(found: Interval | None, drawn_at: float) -> dict[str, Any] | None:
    """The interval as an error bar; None if undefined, or if the mark is not at its value."""
    if len(_ends(drawn_at, found)) == 1 or found is None:
        return None
    return {
        "type": "data", "symmetric": False, "array": [max(found.high - found.value, 0)],
        "arrayminus": [max(found.value - found.low, 0)], "thickness": 1, "width": 3,
    }  # fmt: skip


def _ends(value: float, found: Interval | None) -> list[float]:
    """The value, and the ends of its interval if it has one."""
    if found is None or not math.isfinite(found.high - found.low):
        return [value]
    if not math.isclose(found.value, value, rel_tol=1e-6, abs_tol=1e-9):
        return [value]
    return [value, found.low, found.high]


def _limits(
    records: Records, metric: str, spread: Mapping[str, Interval]
) -> tuple[float, float] | None:
    """The range of the value axis, with the intervals and a margin; None if nothing is shown."""
    finite = math.isfinite
    core = {n: v for n, r in trained(records).items() if finite(v := value_of(r, metric))}
    rest = {n: v for n, r in baselines(records).items() if finite(v := value_of(r, metric))}
    core = core or rest
    if not core:
        return None
    low, high = min(core.values()), max(core.values())
    shown = core | {name: value for name, value in rest.items() if low - 1 <= value <= high + 1}
    ends = [end for name, value in shown.items() for end in _ends(value, spread.get(name))]
    low, high = min(ends), max(ends)
    margin = 0.07 * (high - low) or 0.1
    return low - margin, high + margin


def _add_curves(
    figure: go.Figure, marks: Records, axes: tuple[str, str], style: dict[str, Look]
) -> None:
    for family, curves in families(marks, axes[0]).items():
        for names in curves:
            members = [marks.dictionaries[name] for name in names]
            if len(members) > 1 and not members[0].baseline:
                x, y = ([value_of(record, axis) for record in members] for axis in axes)
                figure.add_scatter(
                    x=x, y=y, mode="lines", name=plain(family), showlegend=False,
                    hoverinfo="skip", opacity=0.6,
                    line={"color": style[names[0]].colour, "width": 1},
                )  # fmt: skip


def _add_marks(
    figure: go.Figure,
    marks: Records,
    axes: tuple[str, str],
    style: dict[str, Look],
    limits: tuple[float, float] | None,
    spread: Mapping[str, Mapping[str, Interval]],
) -> None:
    across, along = (spread[axis] for axis in axes)
    crowded = len(marks.dictionaries) > MOST_NAMES
    in_legend: set[str] = set()
    for name, record in marks.dictionaries.items():
        mark = _mark(name, record, axes, style[name], limits)
        mark.update(error_x=_bar(across.get(name), mark.x[0]))
        mark.update(error_y=_bar(along.get(name), mark.y[0]))
        if crowded:
            kind = plain(record.kind)
            mark.update(name=kind, legendgroup=kind, showlegend=kind not in in_legend)
            in_legend.add(kind)
        figure.add_trace(mark)


def _mark(
    name: str,
    record: DictionaryRecord,
    axes: tuple[str, str],
    look: Look,
    limits: tuple[float, float] | None,
) -> go.Scatter:
    rate, metric = axes
    value = value_of(record, metric)
    low, high = limits or (value, value)
    off = not low <= value <= high
    symbol = look.symbol if not off else f"triangle-{'down' if value < low else 'up'}"
    return go.Scatter(
        x=[value_of(record, rate)], y=[min(max(value, low), high)], name=plain(name),
        mode="markers+text" if off else "markers", cliponaxis=False,
        text=formatted(metric, value) if off else "", textposition="middle left",
        marker={"color": look.colour, "symbol": symbol, "size": 10,
                "line": {"width": 2 if symbol.endswith("-open") else 0, "color": look.colour}},
        customdata=[hover_text(name, record)], hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def hover_text(name: str, record: DictionaryRecord) -> str:
    """The key metrics of a dictionary, one per line, escaped for a hover box."""
    seed = "" if record.seed is None else f", seed {record.seed}"
    costs = [] if math.isnan(value_of(record, "bits")) else ["bits"]
    keys = [KEY_METRICS[0], *costs, *KEY_METRICS[1:]]
    numbers = [f"{LABELS[key]} {formatted(key, value_of(record, key))}" for key in keys]
    about = f"{plain(record.kind)}, {record.n_features:,} features{plain(seed)}"
    return "<br>".join([f"<b>{plain(name)}</b>", about, plain(record.sites), *numbers])


def _add_references(
    figure: go.Figure, lines: dict[str, float], limits: tuple[float, float] | None, metric: str
) -> None:
    """Add horizontal lines; those that nearly coincide share a label."""
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
        label = ", ".join(f"{plain(name)} {formatted(metric, lines[name])}" for name in names)
        middle = min(max(lines[names[0]], low), high)
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=middle, showarrow=False, text=label,
            yanchor="bottom" if middle < (low + high) / 2 else "top", font={"size": 12},
        )  # fmt: skip
