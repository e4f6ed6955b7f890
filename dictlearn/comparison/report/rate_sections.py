"""The report's sections on rate and quality: curves, then families at equal rates."""

import math

from dictlearn.comparison.figures.rates import bits_are_measured, rate_distortion_figure
from dictlearn.comparison.report.page import note, plot, section
from dictlearn.comparison.tables.matched import MATCHED_CAPTION, matched_tables
from dictlearn.comparison.tables.rendering import as_html
from dictlearn.comparison.vocabulary import value_of
from dictlearn.records.results import Records

_BITS = (
    "Bits per token: the cost of encoding which features are active and their coefficients, "
    "quantized as coarsely as possible while keeping 99 % of the loss recovered. The quality shown "
    "is that without quantization. "
)
_READING = (
    "Lower left is better for the fraction of variance unexplained (FVU), upper left for the loss "
    "recovered. Error bars are 95 % intervals over sequences. Grey marks and dotted lines are "
    "baselines. Hover over a mark for its numbers; click in the legend to hide a dictionary."
)


def rate_sections(records: Records) -> list[str]:
    """Rate-distortion curves, first in bits if they were measured, then families at equal rates."""
    rates = [*(["bits"] if bits_are_measured(records) else []), "l0"]
    return [*(_curves(records, rate) for rate in rates), *_matched(records)]


def _curves(records: Records, rate: str) -> str:
    figures = (
        plot(rate_distortion_figure(records, rate, quality), f"{rate}-{quality}")
        for quality in ("fraction_variance_unexplained", "loss_recovered_zero")
    )
    absent = [n for n, r in records.dictionaries.items() if math.isnan(value_of(r, rate))]
    without = (
        note(f"Not shown, because this rate is undefined: {', '.join(absent)}.") if absent else ""
    )
    heading = "Quality against bits per token" if rate == "bits" else "Quality against sparsity"
    text = note((_BITS if rate == "bits" else "") + _READING)
    return section(heading, text, f'<div class="pair">{"".join(figures)}</div>', without)


def _matched(records: Records) -> list[str]:
    """The section with families at equal rates; none if no two families overlap."""
    tables = matched_tables(records)
    return (
        [section("At equal rates", note(MATCHED_CAPTION), *map(as_html, tables))] if tables else []
    )
