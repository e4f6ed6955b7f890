"""The sections of a report on what quality costs: curves, then families at equal rates."""

import math
from html import escape

from dictlearn.comparison.families import RATES
from dictlearn.comparison.intervals import can_resample
from dictlearn.comparison.matched import MATCHED, matched_frame
from dictlearn.comparison.matched_rows import MATCHED_CAPTION, MatchedRow, matched_rows
from dictlearn.comparison.page import note, plot, section, table
from dictlearn.comparison.rates import rate_distortion_figure
from dictlearn.comparison.vocabulary import LABELS, formatted, trained, value_of
from dictlearn.records.results import Records

_BITS = (
    "Bits per token: what it takes to say which features are active, and how much, with "
    "coefficients at the coarsest steps that keep 99 % of the loss recovered; the quality shown is "
    "that before rounding. "
)
_READING = (
    "Left and down is better where the fraction of variance unexplained (FVU) is shown, left and "
    "up where it is the part of the loss recovered. Bars are 95 % intervals over sequences. Grey "
    "marks and dotted lines are baselines. Tap or point at a mark for its numbers; a click in the "
    "legend hides a dictionary."
)


def rate_sections(records: Records) -> list[str]:
    """Rate-distortion curves, in bits first where they are measured; then the matched tables."""
    rates = [*(["bits"] if bits_are_measured(records) else []), "l0"]
    return [*(_curves(records, rate) for rate in rates), *_matched(records)]


def bits_are_measured(records: Records) -> bool:
    """Whether some trained dictionary that is no codebook has a price in bits.

    Codes always have one; alone on an axis they compare with nothing.
    """
    group = trained(records).values()
    others = [record for record in group if math.isnan(value_of(record, "code_bits"))]
    return any(math.isfinite(value_of(record, "bits")) for record in others or group)


def _curves(records: Records, rate: str) -> str:
    figures = (
        plot(rate_distortion_figure(records, rate, quality), f"{rate}-{quality}")
        for quality in ("fraction_variance_unexplained", "loss_recovered_zero")
    )
    absent = [n for n, r in records.dictionaries.items() if math.isnan(value_of(r, rate))]
    without = note(f"Not shown, as they have no price: {', '.join(absent)}.") if absent else ""
    heading = "Quality against bits per token" if rate == "bits" else "Quality against sparsity"
    text = note((_BITS if rate == "bits" else "") + _READING)
    return section(heading, text, f'<div class="pair">{"".join(figures)}</div>', without)


def _matched(records: Records) -> list[str]:
    """The section of matched tables; none where no two families overlap."""
    if not can_resample(records):
        return []
    found = {rate: matched_rows(matched_frame(records, rate)) for rate in RATES}
    tables = [_matched_table(rate, rows) for rate, rows in found.items() if rows]
    return [section("At equal rates", note(MATCHED_CAPTION), *tables)] if tables else []


def _matched_table(rate: str, rows: list[MatchedRow]) -> str:
    labels = [RATES[rate], "hook", "family"]
    for metric in MATCHED:
        labels += [LABELS[metric], "beside the best"]
    headings = [f'<th class="{"text" if i < 3 else ""}">{escape(text)}</th>'
                for i, text in enumerate(labels)]  # fmt: skip
    return table(headings, [_matched_row(row) for row in rows])


def _matched_row(row: MatchedRow) -> str:
    cells = [f'<td class="text">{escape(t)}</td>' for t in (f"{row.at:g}", row.hook, row.family)]
    for metric in MATCHED:
        p = row.standings[metric].p_holm if metric in row.standings else math.nan
        title = f"p {formatted('kl', p)}, Holm" if math.isfinite(p) else ""
        for text in row.texts(metric):
            lines = "<br>".join(escape(line) for line in text.split("\n"))
            cells.append(f'<td title="{title}">{lines}</td>')
    return f"<tr>{''.join(cells)}</tr>"
