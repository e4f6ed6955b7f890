"""The table of models that run through sets of dictionaries."""

import math

from rich.markup import escape
from rich.table import Table

from dictlearn.comparison.vocabulary import LABELS, MISSING
from dictlearn.records.joint import JointRecords, Measured

_SHOWN = ("cross_entropy_spliced", "loss_recovered_zero", "kl", "top1_agreement")


def joint_table(records: JointRecords) -> Table:
    """The table for a terminal: a row for each set, with 95 % intervals."""
    table = Table("set", *(LABELS[name] for name in _SHOWN), box=None, pad_edge=False)
    for name, record in records.sets.items():
        table.add_row(escape(name), *(_shown(record.metrics[metric]) for metric in _SHOWN))
    return table


def _shown(metric: Measured) -> str:
    if not math.isfinite(metric.value):
        return MISSING
    margin = (metric.high - metric.low) / 2
    return f"{metric.value:.4f}" + (f" ±{margin:.4f}" if math.isfinite(margin) else "")
