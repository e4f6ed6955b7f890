"""The report's section on concepts: precision of features compared with baseline directions."""

import math
from html import escape

import pandas as pd

from dictlearn.comparison.figures.precision import precision_figure
from dictlearn.comparison.report.page import note, plot, section
from dictlearn.comparison.statistics.precision import baseline_families, precision_frame
from dictlearn.comparison.tables.rendering import html_table
from dictlearn.comparison.vocabulary import MISSING
from dictlearn.records.concepts import ConceptRecords

_PRECISIONS = ("features", "baseline")
_COLUMNS = {
    "n_concepts": "concepts", "features": "precision of features",
    "baseline": "precision of baseline", "better": "features better",
    "significantly_better": "significantly better", "significantly_worse": "significantly worse",
    "naive_better": "naive: better",
}  # fmt: skip


def precision_section(records: ConceptRecords) -> str:
    """The section as HTML: the figure, its findings in sentences, and a table."""
    frame = precision_frame(records)
    text = (
        f"Precision of features at detecting {len(records.patterns)} concepts that are defined by "
        "regular expressions, compared with baseline directions: the model's neurons, basis "
        "dimensions and principal components. The best feature, its threshold and the best "
        "baseline were selected on one half of the text; precision is measured on the other half, "
        "at equal recall. Filled marks: the 95 % interval of the difference excludes 0. Naive "
        "numbers are measured on the half used for selection, which is biased upwards, most of "
        "all for families with many candidates."
    )
    lines = "".join(f"<p>{line}</p>" for line in _findings(records, frame))
    head = [f'<th scope="col">{label}</th>' for label in _COLUMNS.values()]
    head.insert(0, '<th scope="col" class="text">baseline</th>')
    rows = [_row(name, family, found) for (name, family), found in frame.iterrows()]
    body = html_table(['<th scope="col" class="name">dictionary</th>', *head], rows)
    reasons = "".join(note(f"{key}: {reason}") for key, reason in records.left_out.items())
    left_out = f"<details><summary>Not scored</summary>{reasons}</details>"
    return section(
        "Are features better than neurons?",
        note(text),
        lines,
        plot(precision_figure(records), "precision"),
        body,
        left_out if reasons else "",
    )


def _findings(records: ConceptRecords, frame: pd.DataFrame) -> list[str]:
    """One sentence per dictionary: the fraction of concepts for which its features are better."""
    baseline = next(iter(baseline_families(records)), "")
    return [
        f"<b>{escape(str(name))}</b>: features better than {family} for {found.better:.0%} of "
        f"{int(found.n_concepts)} concepts ({found.significantly_better:.0%} significantly better, "
        f"{found.significantly_worse:.0%} significantly worse); naively {found.naive_better:.0%}."
        for (name, family), found in frame.iterrows()
        if family == baseline
    ]


def _row(name: str, family: str, found: pd.Series) -> str:
    cells = []
    for column in _COLUMNS:
        value = float(found[column])
        digits = ".0f" if column == "n_concepts" else ".3f" if column in _PRECISIONS else ".0%"
        cells.append(f"<td>{format(value, digits) if math.isfinite(value) else MISSING}</td>")
    head = f'<th scope="row" class="name">{escape(name)}</th>'
    return f'<tr>{head}<td class="text">{family}</td>{"".join(cells)}</tr>'
