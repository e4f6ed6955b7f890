"""The section on lengths of training and learning rates."""

from typing import Any

from dictlearn.comparison.figures.lengths import lengths_figure
from dictlearn.comparison.statistics.lengths import Lengths, changes_of_order, rates_at_an_end
from dictlearn.comparison.tables.lengths import lengths_tables


def lengths_data(lengths: Lengths) -> dict[str, Any]:
    """The data of the section."""
    return {
        "remarks": [*changes_of_order(lengths.errors), *rates_at_an_end(lengths.rates)],
        "figure": lengths_figure(lengths),
        "tables": lengths_tables(lengths),
    }
