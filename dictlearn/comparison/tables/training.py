"""The table of how dictionaries were trained."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from dictlearn.comparison.tables.description import Cell, Column, Table
from dictlearn.comparison.vocabulary import formatted, trained
from dictlearn.records.results import DictionaryRecord, Records

CAPTION = (
    "How each dictionary was trained: optimizer steps, rows of activations per step and in all "
    "(repeated ones counted each time), peak learning rate, and the parts of the run in which the "
    "learning rate rises, in which it falls to zero, and in which the sparsity penalty rises. The "
    "last columns are in-sample: the last numbers of the training log, on the rows of one step."
)


def training_table(records: Records) -> Table | None:
    """One row for each trained dictionary; None if no record says how.

    Columns in which no dictionary has a value are left out.
    """
    group = {name: r for name, r in trained(records).items() if r.provenance.training}
    columns = [Column("dictionary", "dictionary", numeric=False)]
    columns += [Column(head, head) for head in _COLUMNS]
    body = tuple(
        (Cell(name), *(Cell(text(record)) for text in _COLUMNS.values()))
        for name, record in group.items()
    )
    found = Table("training", CAPTION, tuple(columns), (body,)).without_empty()
    return found if len(found.columns) > 1 else None


def _setting(key: str, digits: str) -> Callable[[DictionaryRecord], str]:
    return lambda record: _text(record.provenance.training.get("fit_config", {}).get(key), digits)


def _final(key: str, metric: str) -> Callable[[DictionaryRecord], str]:
    def text(record: DictionaryRecord) -> str:
        value = record.provenance.training.get("final", {}).get(key)
        return formatted(metric, value) if _is_number(value) else ""

    return text


def _text(value: Any, digits: str) -> str:
    return format(value, digits) if _is_number(value) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _rate(record: DictionaryRecord) -> str:
    training = record.provenance.training
    found = training.get("fit_config", {})
    if "learning_rate" not in training and found.get("learning_rate", 0) is None:
        return "default of its kind"  # earlier versions did not record which one
    return _text(training.get("learning_rate", found.get("learning_rate")), "g")


_COLUMNS: Mapping[str, Callable[[DictionaryRecord], str]] = {
    "steps": _setting("steps", ",.0f"),
    "rows per step": _setting("batch_size", ",.0f"),
    "rows in all": lambda record: _text(record.provenance.training.get("rows"), ",.0f"),
    "learning rate": _rate,
    "warm-up": _setting("warmup_fraction", ".0%"),
    "decay": _setting("decay_fraction", ".0%"),
    "sparsity warm-up": _setting("sparsity_warmup_fraction", ".0%"),
    "seed": lambda record: "" if record.seed is None else str(record.seed),
    "text": lambda record: record.provenance.text,
    "L0, in-sample": _final("l0", "l0"),
    "FVU, in-sample": _final("fvu", "fraction_variance_unexplained"),
}
"""The headings, each with the text of a record's cell; empty where unknown."""
