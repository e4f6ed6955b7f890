"""Further records in the order in which a report shows its dictionaries."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import TypeVar

from dictlearn.records.agreement import AgreementRecords
from dictlearn.records.concepts import ConceptRecords
from dictlearn.records.features import FeatureRecords

T = TypeVar("T")


def concepts_like(names: Iterable[str], records: ConceptRecords) -> ConceptRecords:
    """The scores of concepts, dictionary by dictionary in the order of `names`."""
    return replace(records, scores=_like(names, records.scores, attrgetter("dictionary")))


def cards_like(names: Iterable[str], records: FeatureRecords) -> FeatureRecords:
    """The feature cards, dictionary by dictionary in the order of `names`."""
    return replace(records, cards=_like(names, records.cards, attrgetter("dictionary")))


def agreement_like(names: Iterable[str], records: AgreementRecords) -> AgreementRecords:
    """The similarities of dictionaries, these in the order of `names`."""
    found = _like(names, records.dictionaries.items(), itemgetter(0))
    return replace(records, dictionaries=dict(found))


def _like(names: Iterable[str], items: Iterable[T], name: Callable[[T], str]) -> list[T]:
    """The items by their names, those of other names last; equal ones keep their order."""
    place = {known: i for i, known in enumerate(names)}
    return sorted(items, key=lambda item: place.get(name(item), len(place)))
