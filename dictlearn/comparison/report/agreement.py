"""The similarity of dictionaries as a report shows it: heatmaps, histograms and a table."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from dictlearn.comparison.figures.agreement import (
    MEASURE_LABELS,
    QUANTITIES,
    agreement_figure,
    chance,
    ordered,
    similarity_histogram,
)
from dictlearn.comparison.figures.style import Look
from dictlearn.comparison.vocabulary import Footnotes
from dictlearn.core.metric import Metric
from dictlearn.records.agreement import AgreementRecords, FeatureSummary

_Share: TypeAlias = Callable[[FeatureSummary], tuple[str, Metric]]
"""A number of a dictionary's features, with the metric that it is formatted as."""
_MOST = 12
"""Largest number of histograms in the section."""


def agreement_data(
    records: AgreementRecords, style: Mapping[str, Look] | None = None
) -> dict[str, Any]:
    """The data of the section; `style` sets the colours of dictionaries.

    There is one histogram per dictionary, with the dictionary that it is most similar to, for the
    first dozen.
    """
    nearest = {quantity: _nearest(records, measure) for quantity, measure in QUANTITIES.items()}
    footnotes, summaries = Footnotes(), records.dictionaries.values()
    shown = [
        h for h, of in _SHARES.items() if any(math.isfinite(of(s)[1].value) for s in summaries)
    ]
    empty = {
        head: "; ".join(dict.fromkeys(filter(None, (of(s)[1].reason for s in summaries))))
        for head, of in _SHARES.items()
    }
    return {
        "maps": {
            measure: (
                MEASURE_LABELS[measure],
                agreement_figure(records, measure),
                _chance(records, measure),
            )
            for measure in ("mmcs", "matched", "correlation")
            if any(math.isfinite(pair.value(measure)) for pair in records.pairs)
        },
        "histograms": {
            quantity: (similarity_histogram(records, pairs[:_MOST], quantity, style), len(pairs))
            for quantity, pairs in nearest.items()
            if pairs
        },
        "most": _MOST,
        "heads": ["kind", "features", "effective number of neurons (quartiles)", *shown],
        "rows": [
            (name, summary, [footnotes.cell(*_SHARES[head](summary)) for head in shown])
            for name in ordered(records)
            for summary in [records.dictionaries[name]]
        ],
        "empty": {head: reason for head, reason in empty.items() if head not in shown},
        "settings": records.settings,
        "alike": _shared_initialization(records),
        "footnotes": footnotes.lines(),
    }


def _chance(records: AgreementRecords, measure: str) -> str:
    """The chance level of a measure in words; empty if there are no random directions."""
    learned = (pair for pair in records.pairs if not records.dictionaries[pair.first].baseline)
    levels = [chance(records, pair.first, pair.second, measure) for pair in learned]
    levels = [level for level in levels if math.isfinite(level)]
    if not levels:
        return ""
    low, high = (f"{end:.2f}" for end in (min(levels), max(levels)))
    found = low if low == high else f"{low} to {high}"
    return (
        f"Chance level: {found} of learned features with as many random directions as the column "
        "has features (the number in italics in a cell)."
    )


def _share(field: str, reason: str = "", form: str = "dead_fraction") -> _Share:
    return lambda s: (form, Metric(getattr(s, field), s.reasons.get(reason, "")))


_SHARES: Mapping[str, _Share] = {
    "near twins": _share("twin_share"),
    "dead": _share("never_active_share", "density"),
    "ultralow density": _share("ultralow_share", "ultralow"),
    "cosine with their mean": _share("ultralow_cosine", "ultralow", "cosine"),
}
"""Columns of the table that are left out where no dictionary has a value."""


def _shared_initialization(records: AgreementRecords) -> list[list[str]]:
    """The sets of dictionaries with the same seed and size, of two or more."""
    together: dict[tuple[int, int], list[str]] = {}
    for name, summary in records.dictionaries.items():
        drawn = not summary.baseline or summary.kind == "random"
        if summary.seed is not None and drawn:
            together.setdefault((summary.seed, summary.n_features), []).append(name)
    return [names for names in together.values() if len(names) > 1]


def _nearest(records: AgreementRecords, measure: str) -> list[tuple[str, str]]:
    """Each dictionary with the one that it is most similar to."""
    nearest = []
    for name in ordered(records):
        pairs = [p for p in records.pairs if p.first == name and math.isfinite(p.value(measure))]
        if pairs:
            best = max(pairs, key=lambda pair: pair.value(measure))
            nearest.append((name, best.second))
    return nearest
