"""The tables of concepts: of all together, and the feature that detects each beside its control."""

import math
from collections.abc import Collection

import pandas as pd

from dictlearn.comparison.statistics.precision import BASELINES, families_of
from dictlearn.comparison.tables.description import Cell, Column, Table
from dictlearn.comparison.vocabulary import MISSING, number
from dictlearn.pages import card_id
from dictlearn.records.concepts import ConceptRecords, ConceptScore, Family

_LONGEST = 20
"""Characters of a pattern that are shown; all of it is on hover."""
CAPTION = (
    "The best feature for each concept, by average precision, with 95 % intervals over other text. "
    "Precision and recall are those at its threshold. Chance level: fraction of tokens with the "
    "concept. Each feature is compared with the best candidate of the baseline; "
    "\N{ALMOST EQUAL TO} 0: the 95 % interval of the difference holds 0. Hover over precision or "
    "recall for its interval."
)


PRECISION_CAPTION = (
    "How well single features detect concepts that are defined by regular expressions. A detector "
    "is better if its average precision is larger: the precision at the score of each token with "
    "the concept, averaged over these tokens. For each concept, the best feature and the best "
    "candidate of each baseline are selected on one half of the text and scored on the other. "
    "The baseline “random” has as many features with the same L0, which were never trained: the "
    "best of many finds something by chance, and what training adds is the difference to random. "
    "The difference has its 95 % interval over concepts; \N{ALMOST EQUAL TO} 0: it holds 0. "
    "“Random better” is the fraction of concepts for which it, too, beats the baseline of the row. "
    "Significantly: the 95 % interval of the difference over other text excludes 0. Precision is "
    "that of each detector at its own threshold, with the recall there."
)
_BEFORE = {
    "n_concepts": ("concepts", ".0f"),
    "features": ("average precision of features", ".3f"),
    "baseline": ("average precision of baseline", ".3f"),
}
_BEHIND = {
    "better": ("features better", ".0%"),
    "significantly_better": ("significantly better", ".0%"),
    "significantly_worse": ("significantly worse", ".0%"),
    "random_better": ("random better", ".0%"),
    "precision": ("precision of features", ".3f"),
    "recall": ("recall of features", ".3f"),
    "baseline_precision": ("precision of baseline", ".3f"),
    "baseline_recall": ("recall of baseline", ".3f"),
}
"""Headings and formats of the columns of `precision_frame` before and behind the difference."""


def precision_table(frame: pd.DataFrame) -> Table:
    """The `precision_frame` with a group of rows for each dictionary, and main columns first."""
    heads = [heading for heading, _ in (*_BEFORE.values(), ("difference", ""), *_BEHIND.values())]
    columns = [Column(n, n, numeric=False) for n in ("dictionary", "baseline")]
    columns += [Column(head, head) for head in heads]
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for (name, family), found in frame.iterrows():
        before, behind = (
            [Cell(number(found[key], digits)) for key, (_, digits) in part.items()]
            for part in (_BEFORE, _BEHIND)
        )
        difference = _difference(
            found["difference"], found["difference_low"], found["difference_high"], "+.3f"
        )
        row = (Cell(name), Cell(family), *before, difference, *behind)
        groups.setdefault(name, []).append(row)
    body = tuple(map(tuple, groups.values()))
    return Table("concepts", PRECISION_CAPTION, tuple(columns), body).without_empty()


def concept_tables(records: ConceptRecords, known: Collection[str] = ()) -> list[Table]:
    """One table for each dictionary, the best detected concepts first.

    `known` are the anchors of feature cards on the page (`card_id`), to which features lead. The
    control is the first family in the records, normally random features.
    """
    families = families_of(records)
    control = families[0] if families else None
    names = dict.fromkeys(score.dictionary for score in records.scores)
    return [_table(records, name, control, known) for name in names]


def _table(
    records: ConceptRecords, name: str, control: Family | None, known: Collection[str]
) -> Table:
    mine = [score for score in records.scores if score.dictionary == name]
    own = [score for score in mine if score.family is Family.FEATURES]
    controls = {score.concept: score for score in mine if score.family is control}
    heading = f"best {BASELINES[control]}" if control else "control"
    columns = [Column(n, n, numeric=False) for n in ("concept", "pattern")]
    columns += [Column(n, n) for n in ("feature", "average precision", heading, "difference",
                                       "precision", "recall", "chance level")]  # fmt: skip
    rows = [
        _row(score, controls.get(score.concept), records.patterns.get(score.concept, ""), known)
        for score in sorted(own, key=_worst_last)
    ]
    title = f"Concepts and features of {name}"
    return Table(title, CAPTION, tuple(columns), (tuple(rows),)).without_empty()


def _worst_last(score: ConceptScore) -> float:
    return math.inf if math.isnan(score.average_precision) else -score.average_precision


def _row(
    own: ConceptScore, control: ConceptScore | None, pattern: str, known: Collection[str]
) -> tuple[Cell, ...]:
    anchor = card_id(own.dictionary, own.candidate)
    sign = "-" if own.sign < 0 else ""
    return (
        Cell(own.concept),
        Cell(pattern if len(pattern) <= _LONGEST else f"{pattern[: _LONGEST - 1]}…", pattern),
        Cell(f"{sign}{own.candidate}", link=anchor if anchor in known else ""),
        Cell(_ranged(own.average_precision, own.average_precision_low, own.average_precision_high)),
        *([Cell(MISSING)] * 2 if control is None else _beside(control)),
        _with_hover(own.precision, own.precision_low, own.precision_high),
        _with_hover(own.recall, own.recall_low, own.recall_high),
        Cell(f"{own.base_rate:.3f}", f"{own.n_matches:,} tokens have the concept"),
    )


def _beside(control: ConceptScore) -> list[Cell]:
    """The control, and the difference from it."""
    return [
        Cell(f"{control.average_precision:.2f}", f"candidate {control.candidate}"),
        _difference(control.advantage, control.advantage_low, control.advantage_high, "+.2f"),
    ]


def _difference(value: float, low: float, high: float, digits: str) -> Cell:
    """The difference with its interval; if that holds 0, the value is shown on hover alone."""
    text = _ranged(value, low, high, digits)
    if not low <= 0 <= high:
        return Cell(text)
    return Cell(f"\N{ALMOST EQUAL TO} 0 ({low:{digits}} to {high:{digits}})", text)


def _with_hover(value: float, low: float, high: float) -> Cell:
    return Cell(number(value, ".2f"), _ranged(value, low, high))


def _ranged(value: float, low: float, high: float, digits: str = ".2f") -> str:
    if math.isnan(value):
        return MISSING
    text = format(value, digits)
    return text if math.isnan(high - low) else f"{text} ({low:{digits}} to {high:{digits}})"
