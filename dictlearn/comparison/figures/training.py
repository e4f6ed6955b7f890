"""Training curves from JSONL logs."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dictlearn.comparison.figures.style import Look, default_looks, log_axis, plain, styled
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import plain_data

T = TypeVar("T")

QUANTITIES: Mapping[str, str] = {"fvu": "FVU", "l0": "L0", "dead": "dead", "loss": "loss"}
"""Quantities that have a panel each, with their axis titles."""


def read_training_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSONL training log.

    An incomplete last line, as left by an interrupted run, is ignored.

    Raises:
        CorruptFileError: the file cannot be read, or another line is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read ({error.strerror})") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = plain_data(line) if line.strip() else {}
        except ValueError as error:
            if number == len(lines):
                break
            raise CorruptFileError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise CorruptFileError(
                f"{path}, line {number}: required a JSON object, got {type(row).__name__}"
            )
        rows.append(row)
    return [row for row in rows if row]


def training_figure(
    logs: Mapping[str, list[dict[str, Any]]],
    style: Mapping[str, Look] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> go.Figure:
    """FVU, L0, dead features and loss against the training step, one curve per dictionary.

    A row of a log has `step`, and `NAME/loss` and so on for each dictionary. With several logs,
    dictionaries are named `log/NAME`. Clicking in the legend hides or shows a dictionary in all
    panels. `style` sets the colours and the order, to match other figures. Objectives of different
    `kinds` have different terms and units, so there is a panel for the loss of each.
    """
    curves = _curves(logs)
    names = list(dict.fromkeys(name for name, _ in curves))
    known = default_looks(names) | _of_logged(names, logs, style or {})
    rank = _of_logged(names, logs, {name: i for i, name in enumerate(style or {})})
    kind_of = _of_logged(names, logs, kinds or {})

    def panel_of(name: str, quantity: str) -> tuple[str, str]:
        return quantity, kind_of.get(name, "") if quantity == "loss" else ""

    found = dict.fromkeys(panel_of(*curve) for curve in curves)
    panels = [panel for quantity in QUANTITIES for panel in found if panel[0] == quantity]
    if not panels:
        return styled(go.Figure(), height=120)
    spacing = 0.16 / max(len(panels), 3)
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=spacing)
    in_legend = set()
    in_panels = sorted(curves.items(), key=lambda c: (
        panels.index(panel_of(*c[0])), rank.get(c[0][0], len(rank))
    ))  # fmt: skip
    for (name, quantity), points in in_panels:
        look = known[name]
        figure.add_scatter(
            x=list(points), y=list(points.values()), mode="lines", name=plain(name),
            legendgroup=plain(name), showlegend=name not in in_legend,
            line={"color": look.colour, "dash": look.dash, "width": 1.6},
            hovertemplate="%{fullData.name}: %{y:.4g} at step %{x:,}<extra></extra>",
            row=panels.index(panel_of(name, quantity)) + 1, col=1,
        )  # fmt: skip
        in_legend.add(name)
    several = sum(quantity == "loss" for quantity, _ in panels) > 1
    for row, (quantity, kind) in enumerate(panels, start=1):
        values = [
            v
            for curve, points in curves.items()
            if panel_of(*curve) == (quantity, kind)
            for v in points.values()
        ]
        log = quantity in ("loss", "l0") and min(values) > 0
        title = QUANTITIES[quantity] + f"<br>{plain(kind)}" * (several and bool(kind))
        title += " (log)" * log
        axis = log_axis(values) if log else {"rangemode": "tozero"}
        figure.update_yaxes(title=title, row=row, **axis)
    figure.update_xaxes(title="training step", row=len(panels))
    return styled(figure, height=170 * len(panels) + 110)


def _of_logged(
    names: Iterable[str], logs: Mapping[str, list[dict[str, Any]]], found: Mapping[str, T]
) -> dict[str, T]:
    """The entry of `found` for each name in the logs that has one.

    Names of results may lack that of the log, and end in a place or a seed.
    """
    entries = {}
    for name in names:
        bare = next((name[len(log) + 1 :] for log in logs if name.startswith(f"{log}/")), name)
        alike = [entry for entry in found if entry.startswith(f"{bare} ")]
        key = next((n for n in (name, bare, *alike) if n in found), None)
        if key is not None:
            entries[name] = found[key]
    return entries


def divergences(logs: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """The reasons why dictionaries left their runs, with the name of the log if there are several.

    Malformed entries are shown as they are.
    """
    found = []
    for log, rows in logs.items():
        for row in rows:
            reasons = row.get("stopped", {})
            lines = reasons.values() if isinstance(reasons, Mapping) else [reasons]
            found += [f"{log}: {line}" if len(logs) > 1 and log else str(line) for line in lines]
    return found


def _curves(
    logs: Mapping[str, list[dict[str, Any]]],
) -> dict[tuple[str, str], dict[int, float]]:
    """The finite values of each dictionary and quantity by step; the last of a step counts."""
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for log, rows in logs.items():
        numbered = (row for row in rows if isinstance(row.get("step"), int))
        for row in sorted(numbered, key=lambda row: row["step"]):
            for key, value in row.items():
                name, slash, quantity = key.rpartition("/")
                number = isinstance(value, int | float) and math.isfinite(value)
                if slash and quantity in QUANTITIES and number:
                    name = f"{log}/{name}" if len(logs) > 1 else name
                    curves.setdefault((name, quantity), {})[row["step"]] = value
    return curves
