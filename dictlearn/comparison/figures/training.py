"""Training curves from JSONL logs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dictlearn.comparison.figures.style import Look, default_looks, log_axis, plain, styled
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import plain_data

QUANTITIES: Mapping[str, str] = {"loss": "loss", "fvu": "FVU", "l0": "L0", "dead": "dead"}
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
    logs: Mapping[str, list[dict[str, Any]]], style: Mapping[str, Look] | None = None
) -> go.Figure:
    """Loss, FVU, L0 and dead features against the training step, one curve per dictionary.

    A row of a log has `step`, and `NAME/loss` and so on for each dictionary. With several logs,
    dictionaries are named `log/NAME`. Clicking in the legend hides or shows a dictionary in all
    panels. `style` sets the colours, to match other figures.
    """
    curves = _curves(logs)
    names = list(dict.fromkeys(name for name, _ in curves))
    known = default_looks(names) | dict(style or {})
    panels = [q for q in QUANTITIES if any(quantity == q for _, quantity in curves)]
    if not panels:
        return styled(go.Figure(), height=120)
    figure = make_subplots(rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=0.05)
    in_legend = set()
    for (name, quantity), points in curves.items():
        look = known[name]
        figure.add_scatter(
            x=list(points), y=list(points.values()), mode="lines", name=plain(name),
            legendgroup=plain(name), showlegend=name not in in_legend,
            line={"color": look.colour, "dash": look.dash, "width": 1.6},
            hovertemplate="%{fullData.name}: %{y:.4g} at step %{x:,}<extra></extra>",
            row=panels.index(quantity) + 1, col=1,
        )  # fmt: skip
        in_legend.add(name)
    for row, quantity in enumerate(panels, start=1):
        values = [v for (_, q), points in curves.items() if q == quantity for v in points.values()]
        log = quantity in ("loss", "l0") and min(values) > 0
        axis = log_axis(values) if log else {"rangemode": "tozero"}
        figure.update_yaxes(title=QUANTITIES[quantity], row=row, **axis)
    figure.update_xaxes(title="training step", row=len(panels))
    return styled(figure, height=170 * len(panels) + 110)


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
