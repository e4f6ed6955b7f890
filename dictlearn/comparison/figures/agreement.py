"""Heatmaps and histograms of the similarity between the features of dictionaries."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from dictlearn.comparison.figures.style import (
    BASELINE_COLOUR,
    COLOURS,
    Look,
    plain,
    stacked,
    styled,
)
from dictlearn.core.errors import InputError
from dictlearn.records.agreement import GAUSSIAN, ROWS, AgreementRecords, PairAgreement

MEASURE_LABELS = {
    "mmcs": "mean max cosine similarity",
    "matched": "mean matched cosine similarity",
    "matched_share": "fraction matched above 0.9",
    "correlation": "mean max correlation",
    "correlation_median": "median max correlation",
}
"""Measures of similarity, with their titles."""
QUANTITIES = {"cosine": "mmcs", "correlation": "correlation"}
"""Quantities that have histograms, with the measure that is their mean."""
_CHANCE = (GAUSSIAN, "random")
"""Kinds of dictionaries whose similarity with others is chance, the first that was measured."""
_LONGEST_NAME = 24
_CELL = 46
"""Pixels per cell."""
_MAP_COLOURS = ((0, "#eef4f9"), (0.5, "#8fbfdd"), (1, "#00568a"))


def agreement_figure(records: AgreementRecords, measure: str = "mmcs") -> go.Figure:
    """Heatmap of `measure` for all ordered pairs: features of the row, compared with the column.

    Trained dictionaries come first, and those of one kind are adjacent. The colour scale is from
    0 (also negative values) to 1. Undefined cells are empty and show the reason on hover;
    dictionaries without any value are left out, unless all are. The small number in a cell is its
    chance level (`chance`), and controls that were measured show on hover. The figure has a fixed
    width, for a box that scrolls.

    Raises:
        InputError: there is no such measure.
    """
    AgreementRecords.require(records)
    compared = [pair for pair in records.pairs if math.isfinite(pair.value(measure))]
    known = {name for pair in compared for name in (pair.first, pair.second)}
    names = [name for name in ordered(records) if name in known or not known]
    values = [[_value(records, row, column, measure) for column in names] for row in names]
    text = [[_text(records, row, column, measure) for column in names] for row in names]
    hover = [[_hover(records, row, column, measure) for column in names] for row in names]
    figure = go.Figure(
        go.Heatmap(
            z=[[v if math.isfinite(v) else None for v in row] for row in values],
            text=text, customdata=hover, zmin=0, zmax=1, colorscale=_MAP_COLOURS, showscale=False,
            texttemplate="%{text}", textfont={"size": 12}, xgap=2, ygap=2, hoverongaps=True,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    parts = [textwrap.wrap(name, _LONGEST_NAME) for name in names]
    labels = ["<br>".join(map(plain, lines)) for lines in parts]
    margin = 50 + 7 * max((len(line) for lines in parts for line in lines), default=0)
    size = _CELL * len(names) + margin
    figure = styled(figure, height=size + 14)
    ticks = {"tickvals": list(range(len(names))), "ticktext": labels, "showgrid": False}
    figure.update_xaxes(title_text="… are found in", tickangle=-90, automargin=True, **ticks)
    figure.update_yaxes(title_text="features of …", autorange="reversed", automargin=True, **ticks)
    return figure.update_layout(width=size + 14, margin={"l": margin, "b": margin})


def similarity_histogram(
    records: AgreementRecords,
    pairs: Sequence[tuple[str, str]] | None = None,
    quantity: str = "cosine",
    style: Mapping[str, Look] | None = None,
) -> go.Figure:
    """Histograms, one per pair, of the maximum similarity of each feature with the other's.

    `quantity` is "cosine" or "correlation". A bimodal histogram shows that some features are
    shared and others are not. By default all ordered pairs are shown; pairs without values are
    left out. Heights are scaled to the highest bar of each histogram, and the axis begins at the
    first one that holds a feature. `style` sets the colours of dictionaries.

    Raises:
        InputError: there is no such pair or quantity.
    """
    if quantity not in QUANTITIES:
        raise InputError(f"required the quantity 'cosine' or 'correlation', got {quantity!r}")
    chosen = records.pairs if pairs is None else [records.pair(*pair) for pair in pairs]
    colours = {name: BASELINE_COLOUR if s.baseline else COLOURS[0]
               for name, s in records.dictionaries.items()}  # fmt: skip
    colours |= {name: look.colour for name, look in (style or {}).items()}
    bars = [
        (_heading(records, pair, quantity), _bars(counts, quantity, colours[pair.first]))
        for pair in chosen
        if (counts := getattr(pair, f"{quantity}_counts"))
    ]
    x_title = f"maximum {quantity} of a feature"
    first = min((x for _, bar in bars for x, y in zip(bar.x, bar.y, strict=True) if y), default=-1)
    return stacked(bars, x_title, each=84, range=(max(first - 0.1, -1.02), 1.02), dtick=0.1)


def chance(records: AgreementRecords, first: str, second: str, measure: str) -> float:
    """The similarity of the features of `first` with as many random directions as `second` has.

    `nan` if not measured.
    """
    levels = (records.level(first, second, measure, kind) for kind in _CHANCE)
    return next(filter(math.isfinite, levels), math.nan)


def ordered(records: AgreementRecords) -> list[str]:
    """The names of trained dictionaries, then baselines; those of one kind are adjacent."""
    kinds = list(dict.fromkeys(summary.kind for summary in records.dictionaries.values()))
    entries = sorted(
        records.dictionaries.items(),
        key=lambda entry: (entry[1].baseline, kinds.index(entry[1].kind)),
    )
    return [name for name, _ in entries]


def _bars(counts: list[int], quantity: str, colour: str) -> go.Bar:
    width = 2 / len(counts)
    return go.Bar(
        x=[-1 + width * (i + 0.5) for i in range(len(counts))], y=counts, width=0.92 * width,
        marker={"color": colour, "line": {"width": 0}},
        hovertemplate=f"%{{y:,}} features near {quantity} %{{x:.2f}}<extra></extra>",
    )  # fmt: skip


def _value(records: AgreementRecords, row: str, column: str, measure: str) -> float:
    return math.nan if row == column else records.pair(row, column).value(measure)


def _text(records: AgreementRecords, row: str, column: str, measure: str) -> str:
    value = _value(records, row, column, measure)
    if not math.isfinite(value):
        return ""
    level = chance(records, row, column, measure)
    shown = math.isfinite(level) and records.dictionaries[column].kind not in _CHANCE
    below = f"<br><i>{level:.2f}</i>" if shown else ""
    return f"{value:.2f}{below}"


def _hover(records: AgreementRecords, row: str, column: str, measure: str) -> str:
    if row == column:
        return f"{plain(row)} itself"
    pair = records.pair(row, column)
    head = f"features of {plain(row)}<br>compared with {plain(column)}<br>"
    value = pair.value(measure)
    if math.isfinite(value):
        levels = {
            GAUSSIAN: chance(records, row, column, measure),
            ROWS: records.level(row, column, measure, ROWS),
        }
        beside = [f"<br>with as many {of} {v:.3f}" for of, v in levels.items() if math.isfinite(v)]
        return f"{head}{MEASURE_LABELS[measure]} {value:.3f}{''.join(beside)}"
    reasons = (pair.reasons.get(key, "") for key in (measure, measure.partition("_")[0]))
    return head + plain(next((reason for reason in reasons if reason), "undefined"))


def _heading(records: AgreementRecords, pair: PairAgreement, quantity: str) -> str:
    measure = QUANTITIES[quantity]
    level = chance(records, pair.first, pair.second, measure)
    names = f"{_short(pair.first)} in {_short(pair.second)}"
    beside = f" (chance {level:.2f})" if math.isfinite(level) else ""
    return f"{plain(names)}: mean {pair.value(measure):.2f}{beside}"


def _short(name: str) -> str:
    """The name, with the middle of long ones left out.

    >>> _short("topk-transcoder-layer-3-seed-1")
    'topk-transcod…r-3-seed-1'
    """
    return name if len(name) <= _LONGEST_NAME else f"{name[:13]}…{name[-10:]}"
