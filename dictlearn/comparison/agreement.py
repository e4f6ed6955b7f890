"""Do dictionaries hold the same features? Maps, histograms and a section of the report."""

import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dictlearn.comparison.page import note, plot, section, table
from dictlearn.comparison.style import BASELINE_COLOUR, COLOURS, styled
from dictlearn.comparison.vocabulary import BASELINE_KINDS, MISSING, Footnotes
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.records.agreement import AgreementRecords, FeatureSummary, PairAgreement

MEASURE_LABELS = {
    "mmcs": "mean max cosine",
    "matched": "mean matched cosine",
    "matched_share": "share matched above 0.9",
    "correlation": "mean max correlation",
    "correlation_median": "median max correlation",
}
"""What a map shows."""
_QUANTITIES = {"cosine": "mmcs", "correlation": "correlation"}
_LONGEST_NAME = 16
_CELL, _SMALL = 46, 6
"""Pixels of a cell, and dictionaries that fit a telephone without scrolling."""
_MOST = 12
"""Histograms in the section of a report."""
_MAP_COLOURS = ((0, "#eef4f9"), (0.5, "#8fbfdd"), (1, "#00568a"))


def agreement_figure(records: AgreementRecords, measure: str = "mmcs") -> go.Figure:
    """A map of `measure` for all ordered pairs: rows are looked for in columns.

    Trained dictionaries come first, those of one kind together. From 0 (pale; negative values as
    well) to 1. Cells without a value are empty, and say why when pointed at. With more than a
    few dictionaries the figure has a width of its own, for a box that scrolls.

    Raises:
        InputError: there is no such measure.
    """
    names = _ordered(records)
    values = [[_value(records, row, column, measure) for column in names] for row in names]
    hover = [[_hover(records, row, column, measure) for column in names] for row in names]
    figure = go.Figure(
        go.Heatmap(
            z=[[v if math.isfinite(v) else None for v in row] for row in values],
            customdata=hover, zmin=0, zmax=1, colorscale=_MAP_COLOURS, showscale=False,
            texttemplate="%{z:.2f}", textfont={"size": 12}, xgap=2, ygap=2, hoverongaps=True,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )  # fmt: skip
    labels = [escape(_short(name)) for name in names]
    margin = 50 + 7 * max((len(_short(name)) for name in names), default=0)
    size = _CELL * len(names) + margin
    figure = styled(figure, height=size + 14)
    ticks = {"tickvals": list(range(len(names))), "ticktext": labels, "showgrid": False}
    figure.update_xaxes(title="… found among those of", tickangle=-90, **ticks)
    figure.update_yaxes(title="features of …", autorange="reversed", **ticks)
    figure.update_layout(margin={"l": margin, "b": margin})
    return figure.update_layout(width=size + 14) if len(names) > _SMALL else figure


def similarity_histogram(
    records: AgreementRecords,
    pairs: Sequence[tuple[str, str]] | None = None,
    quantity: str = "cosine",
) -> go.Figure:
    """Histograms, one a pair, of the largest similarity of each feature with those of the other.

    `quantity` is "cosine" or "correlation". Two peaks say that some features are shared and the
    others are not. All pairs, in both directions, unless some are named; those without values
    are left out. Heights are scaled to each histogram's highest bar.

    Raises:
        InputError: there is no such pair or quantity.
    """
    if quantity not in _QUANTITIES:
        raise InputError(f"required the quantity 'cosine' or 'correlation', got {quantity!r}")
    chosen = records.pairs if pairs is None else [records.pair(*pair) for pair in pairs]
    shown = [pair for pair in chosen if _counts(pair, quantity)]
    if not shown:
        return styled(go.Figure(), height=120)
    height = 84 * len(shown) + 66
    figure = make_subplots(
        rows=len(shown), cols=1, shared_xaxes=True, vertical_spacing=30 / (height - 66),
        subplot_titles=[_heading(pair, quantity) for pair in shown],
    )  # fmt: skip
    figure.update_annotations(x=0, xanchor="left", font={"size": 12})
    for row, pair in enumerate(shown, start=1):
        counts = _counts(pair, quantity)
        width = 2 / len(counts)
        baseline = records.dictionaries[pair.first].kind in BASELINE_KINDS
        figure.add_bar(
            x=[-1 + width * (i + 0.5) for i in range(len(counts))], y=counts, width=0.92 * width,
            marker={"color": BASELINE_COLOUR if baseline else COLOURS[0], "line": {"width": 0}},
            hovertemplate=f"%{{y:,}} features near {quantity} %{{x:.2f}}<extra></extra>",
            row=row, col=1,
        )  # fmt: skip
    figure.update_xaxes(range=(-1.02, 1.02), dtick=0.5)
    figure.update_xaxes(title=f"largest {quantity} of a feature", row=len(shown))
    figure.update_yaxes(showticklabels=False, showgrid=False)
    figure = styled(figure, height=height)
    return figure.update_layout(showlegend=False, margin={"t": 30, "l": 14})


def agreement_section(records: AgreementRecords) -> str:
    """The section of a report about agreement: maps, histograms, a table; HTML.

    The histograms are those of each dictionary with the one in which most of it is found, of the
    first dozen.
    """
    text = (
        "How far the features of one dictionary are found in another: of every feature the largest "
        "cosine with an atom there, or the largest correlation of activations over tokens, and the "
        "mean of these. 1 where all are there. Rows are looked for in columns, so a small "
        "dictionary may be contained in a large one and not the reverse."
    )
    maps = [
        f"<h3>{escape(MEASURE_LABELS[measure])}</h3>"
        + _scrolling(agreement_figure(records, measure), f"agreement-{measure}")
        for measure in ("mmcs", "matched", "correlation")
        if any(math.isfinite(pair.value(measure)) for pair in records.pairs)
    ]
    parts = [note(text), f'<div class="pair">{"".join(f"<div>{m}</div>" for m in maps)}</div>']
    for quantity, measure in _QUANTITIES.items():
        pairs = _nearest(records, measure)
        if pairs:
            drawn = plot(
                similarity_histogram(records, pairs[:_MOST], quantity), f"similarity-{quantity}"
            )
            parts.append(f"<h3>Largest {quantity} of every feature</h3>{drawn}")
            if len(pairs) > _MOST:
                parts.append(note(f"The first {_MOST} of {len(pairs)} dictionaries are drawn."))
    footnotes = Footnotes()
    rows = [_row(name, records.dictionaries[name], footnotes) for name in _ordered(records)]
    headings = ["kind", "features", "neurons per feature (quartiles)", "never active", "ultralow",
                "cosine with their mean"]  # fmt: skip
    head = [f'<th scope="col">{heading}</th>' for heading in headings]
    parts.append(table(['<th scope="col" class="name">dictionary</th>', *head], rows))
    parts.append(
        note(
            "Neurons per feature: over how many directions of the target's basis an atom is "
            f"spread. Ultralow: active, but in less than {records.settings['ultralow']:g} of the "
            "tokens; beside it, how far the atoms of these features are one direction."
        )
    )
    parts += [note(line) for line in (*_one_beginning(records), *footnotes.lines())]
    return section("Do they hold the same features?", *parts)


def _one_beginning(records: AgreementRecords) -> list[str]:
    """A line for each set of dictionaries that may agree because they began at one place."""
    together: dict[tuple[int, int], list[str]] = {}
    for name, summary in records.dictionaries.items():
        if summary.seed is not None and summary.kind not in BASELINE_KINDS - {"random"}:
            together.setdefault((summary.seed, summary.n_features), []).append(name)
    return [
        f"{', '.join(names)} have one seed and size, so they may have begun at the same "
        "directions: how far they agree shows this too. Other seeds tell."
        for names in together.values()
        if len(names) > 1
    ]


def _ordered(records: AgreementRecords) -> list[str]:
    """Trained dictionaries, then baselines; those of one kind together."""
    kinds = list(dict.fromkeys(summary.kind for summary in records.dictionaries.values()))
    kinds.sort(key=lambda kind: kind in BASELINE_KINDS)
    entries = records.dictionaries.items()
    return [name for name, _ in sorted(entries, key=lambda entry: kinds.index(entry[1].kind))]


def _nearest(records: AgreementRecords, measure: str) -> list[tuple[str, str]]:
    """Each dictionary with the one in which most of it is found."""
    nearest = []
    for name in _ordered(records):
        pairs = [
            p for p in records.pairs if p.first == name and math.isfinite(p.value(measure))
        ]  # fmt: skip
        if pairs:
            best = max(pairs, key=lambda pair: pair.value(measure))
            nearest.append((name, best.second))
    return nearest


def _value(records: AgreementRecords, row: str, column: str, measure: str) -> float:
    return math.nan if row == column else records.pair(row, column).value(measure)


def _hover(records: AgreementRecords, row: str, column: str, measure: str) -> str:
    if row == column:
        return f"{escape(row)} itself"
    pair = records.pair(row, column)
    head = f"features of {escape(row)}<br>among those of {escape(column)}<br>"
    value = pair.value(measure)
    if math.isfinite(value):
        return f"{head}{MEASURE_LABELS[measure]} {value:.3f}"
    reasons = (pair.reasons.get(key, "") for key in (measure, measure.partition("_")[0]))
    return head + escape(next((reason for reason in reasons if reason), "undefined"))


def _counts(pair: PairAgreement, quantity: str) -> list[int]:
    return pair.cosine_counts if quantity == "cosine" else pair.correlation_counts


def _heading(pair: PairAgreement, quantity: str) -> str:
    value = pair.value(_QUANTITIES[quantity])
    names = f"{_short(pair.first)} in {_short(pair.second)}"
    return f"{escape(names)}: mean {value:.2f}"


def _short(name: str) -> str:
    """The name, its middle left out where it is long.

    >>> _short("topk-transcoder-seed-1")
    'topk-tran…seed-1'
    """
    return name if len(name) <= _LONGEST_NAME else f"{name[:9]}…{name[-6:]}"


def _scrolling(figure: go.Figure, name: str) -> str:
    """The figure, in a box of its own to scroll if it is wider than a page may be."""
    drawn = plot(figure, name)
    return drawn if figure.layout.width is None else f'<div class="scroll">{drawn}</div>'


def _row(name: str, summary: FeatureSummary, footnotes: Footnotes) -> str:
    quartiles = " – ".join(
        f"{q:.0f}" if math.isfinite(q) else MISSING for q in summary.neurons_per_feature
    )
    reasons = summary.reasons
    cells = [
        escape(summary.kind),
        f"{summary.n_features:,}",
        quartiles if summary.n_features else MISSING,
        _share(summary.never_active_share, reasons.get("density", ""), footnotes),
        _share(summary.ultralow_share, reasons.get("ultralow", ""), footnotes),
        footnotes.cell("cosine", Metric(summary.ultralow_cosine)),
    ]
    tds = "".join(f"<td>{cell}</td>" for cell in cells)
    kind = "baseline" if summary.kind in BASELINE_KINDS else "trained"
    head = f'<th scope="row" class="name">{escape(name)}</th>'
    return f'<tr class="{kind}">{head}{tds}</tr>'


def _share(value: float, reason: str, footnotes: Footnotes) -> str:
    return footnotes.cell("dead_fraction", Metric(value, reason))
