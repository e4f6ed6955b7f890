"""Colours and symbols of dictionaries, the same in every figure.

Each kind has a colour and each dictionary a symbol. The colours are those of Okabe and Ito (2008),
which are suitable for colour-blind readers; baselines are grey. Figures have a transparent
background and mid-grey text, so they are legible on light and on dark pages.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dictlearn.comparison.vocabulary import in_order
from dictlearn.records.results import Records

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BASELINE_COLOUR = "#868e99"
INK = "#757c87"
GRID = "rgba(128, 134, 145, 0.22)"

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star", "hexagon", "pentagon")
_BASELINE_SYMBOLS = (
    "x-thin-open", "circle-open", "square-open", "diamond-open", "cross-thin-open",
    "triangle-up-open", "hexagram-open", "star-open",
)  # fmt: skip
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

MOST_NAMES = 16
"""Largest number of dictionaries that are named individually; above it, legends list kinds."""


@dataclass(frozen=True)
class Look:
    """The colour, symbol and dash of one dictionary."""

    colour: str
    symbol: str
    dash: str

    @property
    def shape(self) -> str:
        """The symbol as a shape that can be filled.

        >>> Look("grey", "x-thin-open", "solid").shape
        'x'
        """
        return self.symbol.removesuffix("-open").removesuffix("-thin")


def looks(records: Records) -> dict[str, Look]:
    """The look of each dictionary, in the order of a report (`in_order`).

    Trained kinds get colours in order of appearance, and dictionaries of a kind symbols by L0.
    """
    records = in_order(records)
    families = Counter(r.kind for r in records.dictionaries.values() if not r.baseline)
    palette: dict[str, str] = {}
    seen: Counter[str] = Counter()
    result = {}
    for name, record in records.dictionaries.items():
        baseline = record.baseline
        family = "" if baseline else record.kind
        if not baseline:
            palette.setdefault(family, _cyclic(COLOURS, len(palette)))
        colour = BASELINE_COLOUR if baseline else palette[family]
        symbols = _BASELINE_SYMBOLS if baseline else _SYMBOLS
        alike = families[family] > len(_SYMBOLS)  # too many to tell apart
        result[name] = _look(colour, symbols, 0 if alike else seen[family])
        seen[family] += 1
    return result


def default_looks(names: Iterable[str]) -> dict[str, Look]:
    """One colour per name, for dictionaries whose kinds are not known."""
    return {name: _look(_cyclic(COLOURS, i), _SYMBOLS, 0) for i, name in enumerate(names)}


def _look(colour: str, symbols: tuple[str, ...], index: int) -> Look:
    return Look(colour, _cyclic(symbols, index), _cyclic(_DASHES, index))


def _cyclic(values: tuple[str, ...], index: int) -> str:
    return values[index % len(values)]


def plain(text: object) -> str:
    """The text as plotly shows it unchanged: plotly takes some tags and entities for markup.

    Quotation marks stay, since plotly does not know their entities.

    >>> plain('<b> & "c"')
    '&lt;b&gt; &amp; "c"'
    """
    return escape(str(text), quote=False)


def styled(figure: go.Figure, height: int) -> go.Figure:
    """The figure with common fonts, grid and margins, and the legend on top."""
    figure.update_layout(
        height=height,
        margin={"l": 58, "r": 14, "t": 14, "b": 52},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": INK},
        hoverlabel={
            "bgcolor": "#ffffff",
            "font": {"color": "#1c2026", "size": 13},
            "align": "left",
        },
        legend={
            "orientation": "h",
            "font": {"size": 12},
            "x": 0,
            "y": 1.03,
            "yanchor": "bottom",
        },
    )
    axis = {
        "gridcolor": GRID,
        "linecolor": GRID,
        "zeroline": False,
        "title": {"font": {"size": 13}},
    }
    figure.update_xaxes(**axis, showline=True)
    figure.update_yaxes(**axis)
    return figure


def stacked(
    bars: Sequence[tuple[str, go.Bar]], x_title: str, *, each: int, **x_axis: Any
) -> go.Figure:
    """Histograms, one below the other on a common axis, each with its heading and own heights.

    `each` is the height of one in pixels.
    """
    if not bars:
        return styled(go.Figure(), height=120)
    height = each * len(bars) + 66
    figure = make_subplots(
        rows=len(bars), cols=1, shared_xaxes=True, vertical_spacing=30 / (height - 66),
        subplot_titles=[heading for heading, _ in bars],
    )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font={"size": 12})
    for row, (_, bar) in enumerate(bars, start=1):
        figure.add_trace(bar, row=row, col=1)
    figure.update_xaxes(**x_axis)
    figure.update_xaxes(title=x_title, row=len(bars))
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure = styled(figure, height=height)
    return figure.update_layout(showlegend=False, margin={"t": 30, "l": 14})


_MANY_DECADES = 2.5
_MIN_TICKS = 4
_BETWEEN = ((2.0, 5.0), (2.0, 3.0, 5.0, 7.0), (1.5, *map(float, range(2, 10))))
"""Ticks between powers of ten, as multiples of the lower one, the fewest first."""


def log_axis(values: list[float]) -> dict[str, Any]:
    """A logarithmic axis for those of the `values` that are positive.

    Ticks are at powers of ten if there are many, and else also at as many numbers between them as
    it takes for four ticks.
    """
    values = [value for value in values if value > 0]
    if not values:
        return {"type": "log"}
    low, high = math.log10(min(values)) - 0.12, math.log10(max(values)) + 0.12
    decades = range(math.floor(low), math.ceil(high) + 1)

    def multiples(*steps: float) -> list[float]:
        return [step * 10.0**decade for decade in decades for step in steps]

    ticks = multiples(1.0)
    for between in _BETWEEN if high - low < _MANY_DECADES else ():
        ticks = multiples(1.0, *between)
        if sum(low <= math.log10(tick) <= high for tick in ticks) >= _MIN_TICKS:
            break
    labels = [f"{tick:,g}" for tick in ticks]
    return {"type": "log", "range": (low, high), "tickvals": ticks, "ticktext": labels}
