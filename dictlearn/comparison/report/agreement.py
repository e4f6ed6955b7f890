"""The report's section on the similarity of dictionaries: heatmaps, histograms and a table."""

import math
from html import escape

import plotly.graph_objects as go

from dictlearn.comparison.figures.agreement import (
    MEASURE_LABELS,
    QUANTITIES,
    agreement_figure,
    ordered,
    similarity_histogram,
)
from dictlearn.comparison.report.page import note, plot, section
from dictlearn.comparison.tables.rendering import html_table
from dictlearn.comparison.vocabulary import MISSING, Footnotes, is_baseline
from dictlearn.core.metric import Metric
from dictlearn.records.agreement import AgreementRecords, FeatureSummary

_MOST = 12
"""Largest number of histograms in the section."""
_TEXT = (
    "Similarity of the features of two dictionaries. For each feature of the row's dictionary, the "
    "maximum cosine similarity of its decoder direction with one of the column's dictionary, or "
    "the maximum correlation of its activations over tokens, averaged over features. 1 means that "
    "all features are found. The measure is not symmetric: a small dictionary may be contained in "
    "a large one but not the reverse."
)
_HEADINGS = (
    "kind", "features", "neurons per feature (quartiles)", "dead", "ultralow density",
    "cosine with their mean",
)  # fmt: skip


def agreement_section(records: AgreementRecords) -> str:
    """The section as HTML.

    There is one histogram per dictionary, with the dictionary that it is most similar to, for the
    first dozen.
    """
    maps = [
        f"<h3>{escape(MEASURE_LABELS[measure])}</h3>"
        + _scrolling(agreement_figure(records, measure), f"agreement-{measure}")
        for measure in ("mmcs", "matched", "correlation")
        if any(math.isfinite(pair.value(measure)) for pair in records.pairs)
    ]
    parts = [note(_TEXT), f'<div class="pair">{"".join(f"<div>{m}</div>" for m in maps)}</div>']
    for quantity in QUANTITIES:
        parts += _histograms(records, quantity)
    footnotes = Footnotes()
    rows = [_row(name, records.dictionaries[name], footnotes) for name in ordered(records)]
    head = [f'<th scope="col">{heading}</th>' for heading in _HEADINGS]
    parts.append(html_table(['<th scope="col" class="name">dictionary</th>', *head], rows))
    parts.append(
        note(
            "Neurons per feature: the effective number of dimensions of the target that a feature "
            "writes to. Ultralow density: active, but on less than "
            f"{records.settings['ultralow']:g} of the tokens; the last column is the mean cosine "
            "of the decoder directions of these features with their mean."
        )
    )
    parts += [note(line) for line in (*_shared_initialization(records), *footnotes.lines())]
    return section("Do they hold the same features?", *parts)


def _histograms(records: AgreementRecords, quantity: str) -> list[str]:
    pairs = _nearest(records, QUANTITIES[quantity])
    if not pairs:
        return []
    drawn = plot(similarity_histogram(records, pairs[:_MOST], quantity), f"similarity-{quantity}")
    parts = [f"<h3>Maximum {quantity} of every feature</h3>{drawn}"]
    if len(pairs) > _MOST:
        parts.append(note(f"The first {_MOST} of {len(pairs)} dictionaries are shown."))
    return parts


def _shared_initialization(records: AgreementRecords) -> list[str]:
    """One line for each set of dictionaries with the same seed and size."""
    together: dict[tuple[int, int], list[str]] = {}
    for name, summary in records.dictionaries.items():
        drawn = not is_baseline(summary) or summary.kind == "random"
        if summary.seed is not None and drawn:
            together.setdefault((summary.seed, summary.n_features), []).append(name)
    return [
        f"{', '.join(names)} have the same seed and size, so they may share their initialization, "
        "which makes them more similar. Compare with other seeds."
        for names in together.values()
        if len(names) > 1
    ]


def _nearest(records: AgreementRecords, measure: str) -> list[tuple[str, str]]:
    """Each dictionary with the one that it is most similar to."""
    nearest = []
    for name in ordered(records):
        pairs = [p for p in records.pairs if p.first == name and math.isfinite(p.value(measure))]
        if pairs:
            best = max(pairs, key=lambda pair: pair.value(measure))
            nearest.append((name, best.second))
    return nearest


def _scrolling(figure: go.Figure, name: str) -> str:
    """The figure, in a box that scrolls if it has a width of its own."""
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
    kind = "baseline" if is_baseline(summary) else "trained"
    head = f'<th scope="row" class="name">{escape(name)}</th>'
    return f'<tr class="{kind}">{head}{tds}</tr>'


def _share(value: float, reason: str, footnotes: Footnotes) -> str:
    return footnotes.cell("dead_fraction", Metric(value, reason))
