"""Families of dictionaries (one kind at one pair of sites), as curves over a rate."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from dictlearn.comparison.vocabulary import value_of
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import QUANTIZED
from dictlearn.metrics.pooled import pooled_metrics
from dictlearn.records.results import DictionaryRecord, Records

RATES: dict[str, str] = {"l0": "L0: active features per token", "bits": "bits per token"}
"""Rates, with their axis titles."""

_NOT_KEPT = "the quality at these bits was not kept by this version; evaluate again"

Curve: TypeAlias = tuple[str, ...]
"""Names of dictionaries, ordered by rate."""
_Key: TypeAlias = tuple[str, str, tuple[str, ...]]
"""Kind, sites and training of a family."""


def require_rate(rate: str) -> None:
    """Raise an `InputError` unless `rate` is one of `RATES`."""
    if rate not in RATES:
        raise InputError(f"required a rate, {' or '.join(map(repr, RATES))}; got {rate!r}")


def at_rate(records: Records, rate: str) -> Records:
    """The records of what is spent: at bits per token, of coefficients as a decoder gets them.

    There, sums and metrics are those of the dictionaries with quantized coefficients. Records
    without these, by an earlier version, have no bits.
    """
    if rate != "bits":
        return records
    found = {name: _quantized(record) for name, record in records.dictionaries.items()}
    return replace(records, dictionaries=found)


def _quantized(record: DictionaryRecord) -> DictionaryRecord:
    if not math.isfinite(value_of(record, "bits")):
        return record
    if not record.sums.keys() >= {"bits", *QUANTIZED.values()}:
        missing = Metric(math.nan, _NOT_KEPT)
        return replace(record, metrics=record.metrics | {"bits": missing})
    sums = record.sums | {name: record.sums[new] for name, new in QUANTIZED.items()}
    metrics = pooled_metrics({name: s.sum() for name, s in sums.items()}, record.density)
    return replace(record, sums=sums, metrics=record.metrics | metrics)


def families(records: Records, rate: str) -> dict[str, list[Curve]]:
    """The curves of every family, by label.

    A family is all dictionaries of one kind at one pair of sites that were trained alike: for as
    many steps of as many rows of one text, at one learning rate. All other settings may vary along
    a curve. There is one curve per training seed that has at least two rates; if no seed
    has, all dictionaries form one curve. Dictionaries with rate 0 or undefined are left out. The
    label is the kind, followed by what differs between the families of the kind.
    """
    members: dict[_Key, list[str]] = {}
    for name, record in records.dictionaries.items():
        if value_of(record, rate) > 0 and math.isfinite(value_of(record, rate)):
            key = record.kind, str(record.sites), _training(record)
            members.setdefault(key, []).append(name)
    return {
        _label(key, [other for other in members if other[0] == key[0]]): _curves(
            records, names, rate
        )
        for key, names in members.items()
    }


def _training(record: DictionaryRecord) -> tuple[str, ...]:
    """Steps, rows, learning rate and text of a training run; empty for baselines."""
    run = record.provenance.training.get("fit_config", {})
    if record.baseline or not run:
        return ("",) * 4
    rate = run.get("learning_rate")
    return (
        f"{run.get('steps')} steps",
        f"{run.get('batch_size')} rows per step",
        "default rate" if rate is None else f"rate {rate}",
        f"text {record.provenance.text_hash[:8]}",
    )


def _label(key: _Key, alike: list[_Key]) -> str:
    """The kind, with the sites and the settings in which the families of the kind differ."""
    kind, sites, training = key
    label = f"{kind} at {sites}" if len({other[1] for other in alike}) > 1 else kind
    apart = [
        setting
        for i, setting in enumerate(training)
        if setting and len({other[2][i] for other in alike}) > 1
    ]
    return ", ".join([label, *apart])


def _curves(records: Records, names: Iterable[str], rate: str) -> list[Curve]:
    def rate_of(name: str) -> float:
        return value_of(records.dictionaries[name], rate)

    ordered = sorted(names, key=rate_of)
    by_seed: dict[int | None, list[str]] = {}
    for name in ordered:
        by_seed.setdefault(records.dictionaries[name].seed, []).append(name)
    curves = [tuple(c) for c in by_seed.values() if len({rate_of(name) for name in c}) > 1]
    return curves or [tuple(ordered)]
