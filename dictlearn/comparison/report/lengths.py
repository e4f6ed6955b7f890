"""The section on lengths of training and learning rates."""

from typing import Any

from dictlearn.comparison.figures.lengths import lengths_figure
from dictlearn.comparison.statistics.lengths import (
    Lengths,
    changes_of_order,
    rates_at_an_end,
    rates_without_comparison,
)
from dictlearn.comparison.tables.lengths import lengths_tables

_PANEL = 250
"""Smallest width of a panel of the figure, in pixels."""


def lengths_data(lengths: Lengths) -> dict[str, Any]:
    """The data of the section."""
    figure = lengths_figure(lengths)
    return {
        "remarks": [
            *changes_of_order(lengths.pairs),
            *rates_without_comparison(lengths.rates),
            *rates_at_an_end(lengths.rates),
        ],
        "figure": figure,
        "narrowest": _PANEL * len(list(figure.select_xaxes())),
        "tables": lengths_tables(lengths),
    }
