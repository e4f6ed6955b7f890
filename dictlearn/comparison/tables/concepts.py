"""The tables of concepts: the feature that detects each best, beside its control."""

import math
from collections.abc import Collection

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
    "concept. The control is the best of the baseline's candidates; significantly better or worse: "
    "the 95 % interval of the difference excludes 0. Hover over precision or "
    "recall for its interval."
)


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
    columns.append(Column("significantly", "significantly", numeric=False))
    rows = [
        _row(score, controls.get(score.concept), records.patterns.get(score.concept, ""), known)
        for score in sorted(own, key=_worst_last)
    ]
    return Table(f"Concepts and features of {name}", CAPTION, tuple(columns), (tuple(rows),))


def _worst_last(score: ConceptScore) -> float:
    return math.inf if math.isnan(score.average_precision) else -score.average_precision


def _row(
    own: ConceptScore, control: ConceptScore | None, pattern: str, known: Collection[str]
) -> tuple[Cell, ...]:
    anchor = card_id(own.dictionary, own.candidate)
    sign = "-" if own.sign < 0 else ""
    *beside, verdict = (
        [Cell(MISSING), Cell(MISSING), Cell("")] if control is None else _beside(control)
    )
    return (
        Cell(own.concept),
        Cell(pattern if len(pattern) <= _LONGEST else f"{pattern[: _LONGEST - 1]}…", pattern),
        Cell(f"{sign}{own.candidate}", link=anchor if anchor in known else ""),
        Cell(_ranged(own.average_precision, own.average_precision_low, own.average_precision_high)),
        *beside,
        _with_hover(own.precision, own.precision_low, own.precision_high),
        _with_hover(own.recall, own.recall_low, own.recall_high),
        Cell(f"{own.base_rate:.3f}", f"{own.n_matches:,} tokens have the concept"),
        verdict,
    )


def _beside(control: ConceptScore) -> list[Cell]:
    """The control, the difference from it, and whether that is significant."""
    return [
        Cell(f"{control.average_precision:.2f}", f"candidate {control.candidate}"),
        Cell(_ranged(control.advantage, control.advantage_low, control.advantage_high, "+.2f")),
        Cell(_verdict(control)),
    ]


def _with_hover(value: float, low: float, high: float) -> Cell:
    return Cell(number(value, ".2f"), _ranged(value, low, high))


def _ranged(value: float, low: float, high: float, digits: str = ".2f") -> str:
    if math.isnan(value):
        return MISSING
    text = format(value, digits)
    return text if math.isnan(high - low) else f"{text} ({low:{digits}} to {high:{digits}})"


def _verdict(control: ConceptScore) -> str:
    if control.advantage_low > 0:
        return "better"
    return "worse" if control.advantage_high < 0 else ""
