"""Families of dictionaries (one kind at one pair of sites), as curves over a rate."""

import math
from collections.abc import Iterable
from typing import TypeAlias

from dictlearn.comparison.vocabulary import value_of
from dictlearn.core.errors import InputError
from dictlearn.records.results import Records

RATES: dict[str, str] = {"l0": "L0: active features per token", "bits": "bits per token"}
"""Rates, with their axis titles."""

Curve: TypeAlias = tuple[str, ...]
"""Names of dictionaries, ordered by rate."""


def require_rate(rate: str) -> None:
    """Raise an `InputError` unless `rate` is one of `RATES`."""
    if rate not in RATES:
        raise InputError(f"required a rate, {' or '.join(map(repr, RATES))}; got {rate!r}")


def families(records: Records, rate: str) -> dict[str, list[Curve]]:
    """The curves of every family, by label.

    A family is all dictionaries of one kind at one pair of sites; all other settings may vary
    along a curve. There is one curve per training seed that has at least two rates; if no seed
    has, all dictionaries form one curve. Dictionaries with rate 0 or undefined are left out. The
    label is the kind, followed by the sites if the kind occurs at several.
    """
    members: dict[tuple[str, str], list[str]] = {}
    for name, record in records.dictionaries.items():
        if value_of(record, rate) > 0 and math.isfinite(value_of(record, rate)):
            members.setdefault((record.kind, str(record.sites)), []).append(name)
    kinds = [kind for kind, _ in members]
    return {
        kind if kinds.count(kind) == 1 else f"{kind} at {sites}": _curves(records, names, rate)
        for (kind, sites), names in members.items()
    }


def _curves(records: Records, names: Iterable[str], rate: str) -> list[Curve]:
    def rate_of(name: str) -> float:
        return value_of(records.dictionaries[name], rate)

    ordered = sorted(names, key=rate_of)
    by_seed: dict[int | None, list[str]] = {}
    for name in ordered:
        by_seed.setdefault(records.dictionaries[name].seed, []).append(name)
    curves = [tuple(c) for c in by_seed.values() if len({rate_of(name) for name in c}) > 1]
    return curves or [tuple(ordered)]
