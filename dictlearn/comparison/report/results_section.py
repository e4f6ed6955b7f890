"""The report's table of all dictionaries and all metrics."""

import math
from html import escape

from dictlearn.comparison.report.page import note, section
from dictlearn.comparison.statistics.intervals import intervals_of
from dictlearn.comparison.tables.rendering import html_table
from dictlearn.comparison.vocabulary import (
    LABELS,
    Footnotes,
    baselines,
    formatted,
    is_baseline,
    trained,
    with_interval,
)
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.bootstrap import Interval
from dictlearn.records.results import DictionaryRecord, Records

WITH_INTERVAL = frozenset({"fraction_variance_unexplained", "loss_recovered_zero"})
"""Metrics whose cells show the interval; for others it is shown on hover."""


def results_section(records: Records) -> str:
    """The section with the table of all metrics."""
    footnotes = Footnotes()
    headings = [_heading("dictionary", "ascending", "", "name")]
    headings += [_heading("kind", "ascending", "", "text"), _heading("features", "descending")]
    for metric in REPORTED:
        first = "descending" if metric.better == "higher" else "ascending"
        direction = (
            "" if metric.better == "neither" else f" {metric.better.capitalize()} is better."
        )
        headings.append(_heading(LABELS[metric.name], first, metric.description + direction))
    ordered = {**trained(records), **baselines(records)}
    spread = intervals_of(records, LABELS)
    rows = [
        _row(name, record, footnotes, {key: of[name] for key, of in spread.items() if name in of})
        for name, record in ordered.items()
    ]
    text = (
        "Baselines are grey. The table scrolls horizontally. Click a heading to sort by it, hover "
        "over it for its definition. CE is the next-token cross-entropy, KL the divergence from "
        "the clean model, both in nats. FVU is the fraction of variance unexplained. ± is half the "
        "width of the 95 % interval over sequences; hover over a number for the interval."
    )
    reasons = "".join(note(line) for line in footnotes.lines())
    return section("Every dictionary", note(text), html_table(headings, rows), reasons)


def _heading(label: str, first: str, description: str = "", kind: str = "") -> str:
    return (
        f'<th scope="col" class="{kind}" data-first="{first}" title="{escape(description)}">'
        f'<button type="button">{escape(label)}</button></th>'
    )


def _row(
    name: str, record: DictionaryRecord, footnotes: Footnotes, spread: dict[str, Interval]
) -> str:
    cells = [
        f'<th scope="row" class="name" data-value="{escape(name)}" '
        f'title="{escape(str(record.sites))}">{escape(name)}</th>',
        f'<td class="text" data-value="{escape(record.kind)}">{escape(record.kind)}</td>',
        f'<td data-value="{record.n_features}">{record.n_features:,}</td>',
    ]
    for key in LABELS:
        metric = record.metrics.get(key, Metric(math.nan))
        value = metric.value if math.isfinite(metric.value) else ""
        text, about = footnotes.cell(key, metric), metric.reason
        if key in spread and math.isfinite(metric.value):
            found = spread[key]
            ends = f"{formatted(key, found.low)} to {formatted(key, found.high)}"
            about = f"95 % interval {ends}"
            text = with_interval(key, found) if key in WITH_INTERVAL else text
        cells.append(f'<td data-value="{value}" title="{escape(about)}">{escape(text)}</td>')
    kind = "baseline" if is_baseline(record) else "trained"
    return f'<tr class="{kind}">{"".join(cells)}</tr>'
