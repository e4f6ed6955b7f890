"""Error against the length of training."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dictlearn.comparison.figures.style import default_looks, log_axis, plain, styled
from dictlearn.comparison.statistics.lengths import Lengths
from dictlearn.comparison.vocabulary import LABELS

_WIDEST = 4
"""Largest number of panels side by side."""


def lengths_figure(lengths: Lengths) -> go.Figure:
    """FVU on evaluation tokens against training steps, one panel per L0 and one line per family.

    Both axes are logarithmic, and error bars are 95 % intervals over sequences. A family has no
    mark after lengths at which it does not reach the L0; baselines, which are not trained for
    longer, are left out.
    """
    frame = lengths.errors
    steps = sorted(lengths.held_out)
    panels = list(dict.fromkeys(frame.index.droplevel(["steps", "metric", "family"])))[:_WIDEST]
    if not panels:
        return styled(go.Figure(), height=120)
    several = len({hook for hook, _ in panels}) > 1
    figure = make_subplots(cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03)
    families = list(dict.fromkeys(frame.index.get_level_values("family")))
    style, shown = default_looks(families), set[str]()
    every: list[float] = []
    for column, (hook, at) in enumerate(panels, start=1):
        there = frame.xs((hook, at), level=["hook", "at"]).droplevel("metric")
        for family in families:
            line = there.xs(family, level="family")[["value", "low", "high"]].dropna()
            if len(line) < 2:
                continue
            every += line.to_numpy().ravel().tolist()
            figure.add_scatter(
                x=line.index, y=line["value"], name=plain(family), legendgroup=plain(family),
                showlegend=family not in shown, mode="lines+markers",
                line={"color": style[family].colour, "width": 1.6},
                error_y={"type": "data", "symmetric": False, "array": line["high"] - line["value"],
                         "arrayminus": line["value"] - line["low"], "thickness": 1, "width": 3},
                hovertemplate="%{fullData.name}: %{y:.4g} after %{x:,} steps<extra></extra>",
                row=1, col=column,
            )  # fmt: skip
            shown.add(family)
        where = f"L0 {at:g}" + f" at {plain(hook)}" * several
        figure.update_xaxes(title=f"training steps ({where})", col=column)
    ticks = {"tickvals": steps, "ticktext": [f"{n:,}" for n in steps]}
    figure.update_xaxes(**log_axis([float(n) for n in steps]) | ticks)
    figure.update_yaxes(**log_axis(every))
    figure.update_yaxes(title=LABELS["fraction_variance_unexplained"], col=1)
    return styled(figure, height=380)
