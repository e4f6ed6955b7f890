"""The main results of an evaluation in sentences."""

import math
from dataclasses import replace
from itertools import groupby

from dictlearn.comparison.statistics.families import RATES
from dictlearn.comparison.statistics.intervals import can_resample, differences_frame, intervals_of
from dictlearn.comparison.statistics.learning_rates import learning_rate
from dictlearn.comparison.statistics.matched import matched_frame
from dictlearn.comparison.statistics.standings import MatchedRow, matched_rows
from dictlearn.comparison.vocabulary import (
    ReferenceLosses,
    by_target,
    formatted,
    listed,
    reference_losses,
    trained,
    value_of,
    with_interval,
)
from dictlearn.metrics.intervals import Interval
from dictlearn.records.results import DictionaryRecord, Records

DEAD_LIMIT = 0.1
"""Smallest fraction of dead features that the verdict mentions."""
_INSIGNIFICANT = ", which after correction for all comparisons is not significant"
_LISTED = 4
"""Largest number of dictionaries that a sentence names; above it, only their number is given."""


def verdict(records: Records) -> list[str]:
    """One paragraph per replaced hook, on the best trained dictionaries there.

    It names the budget of training. If families, baselines among them, overlap in L0 or in bits, it
    names the one that recovers most at equal rates, those that tie with it (the interval of the
    difference holds 0), and by how much the others recover less, with a remark where this is not
    significant after correction for all comparisons. Loss recovered is comparable only between
    dictionaries that replace the same tensor, so hooks are kept apart.
    """
    if not trained(records):
        return ["Only baselines were evaluated."]
    losses = reference_losses(records)
    return [
        " ".join(filter(None, _sentences(hook, there, losses[hook])))
        for hook, there in by_target(records).items()
        if trained(there)
    ]


def _sentences(hook: str, there: Records, losses: ReferenceLosses) -> tuple[str, ...]:
    group = trained(there)
    records = replace(there, dictionaries=group)
    return (
        _budget(group),
        _at_equal_rates(there),
        _recovered(hook, records),
        _reconstructs(records),
        f"For reference, the next-token loss in nats is {losses} at this hook.",
        _worse_than_mean(group),
        _dead(group),
    )


def _budget(group: dict[str, DictionaryRecord]) -> str:
    """Steps, rows and learning rates of training; empty where a record does not say."""
    runs = [record.provenance.training.get("fit_config", {}) for record in group.values()]
    budgets = {(run.get("steps"), run.get("batch_size")) for run in runs}
    if not all(isinstance(n, int) for budget in budgets for n in budget):
        return ""
    trainings = [f"{steps:,} steps of {rows:,} rows" for steps, rows in sorted(budgets)]
    if len(trainings) > 1:
        return f"The dictionaries were not trained alike: {listed(trainings[:_LISTED])}."
    return f"Training: {trainings[0]}{_at_rates(group)}. What follows is for this budget."


def _at_rates(group: dict[str, DictionaryRecord]) -> str:
    """The peak learning rates that were set; empty if every kind has its default."""
    kinds: dict[float | None, list[str]] = {}
    for kind, rate in dict.fromkeys((r.kind, learning_rate(r)) for r in group.values()):
        kinds.setdefault(rate, []).append(kind)
    unset = kinds.pop(None, [])
    if not kinds:
        return ""
    rates = "; ".join(f"{rate:g} for {listed(names)}" for rate, names in kinds.items())
    rest = f", and the default of {listed(unset)}" if unset else ""
    return f", at a peak learning rate of {rates}{rest}"


def _at_equal_rates(records: Records) -> str:
    """The best family at each rate, trained or baseline, or that no two families overlap."""
    if not can_resample(records):
        return ""
    found: list[str] = []
    for rate in RATES:
        rows = matched_rows(matched_frame(records, rate, metrics=["loss_recovered_zero"]))
        for at, tied in groupby(rows, key=lambda row: row.at):
            equal = f"L0 {at:.4g}" if rate == "l0" else f"{at:.4g} bits per token"
            found.append(f"At {equal}, {_winner(list(tied))}.")
    if found and len({record.seed for record in trained(records).values()}) == 1:
        found.append("Each has one training seed, so the variation over seeds is not known.")
    if not found and len({record.kind for record in trained(records).values()}) > 1:
        found.append("No two families overlap in L0 or bits, so none is compared at equal rates.")
    return " ".join(found)


def _described(best: str, group: dict[str, DictionaryRecord]) -> str:
    """The name, after "the densest" if no other dictionary has a larger L0."""
    others = [value_of(record, "l0") for name, record in group.items() if name != best]
    densest = all(value_of(group[best], "l0") > l0 for l0 in others)
    return f"the densest, {best}," if densest else best


def _winner(rows: list[MatchedRow]) -> str:
    standings = {row.family: row.standings["loss_recovered_zero"] for row in rows}
    best = next(family for family, standing in standings.items() if standing.is_best)
    value = with_interval("loss_recovered_zero", standings[best].found)
    parts = [f"{best} recovers most ({value})"]
    tied = [family for family, standing in standings.items() if standing.ties]
    if tied:
        parts.append(_tie(tied))
    for family, standing in standings.items():
        if family != best and not standing.ties:
            less = Interval(*(-end for end in standing.behind))
            text = f"{family} recovers {with_interval('loss_recovered_zero', less)} less"
            parts.append(text if standing.significant else text + _INSIGNIFICANT)
    return "; ".join(parts)


def _recovered(hook: str, records: Records) -> str:
    group, key = records.dictionaries, "loss_recovered_zero"
    spread = intervals_of(records, [key])[key]

    def at_l0(name: str, of: str = "of it") -> str:
        value = value_of(group[name], key)
        part = with_interval(key, spread.get(name, Interval(value, math.nan, math.nan)))
        return f"{part} {of} at L0 {formatted('l0', value_of(group[name], 'l0'))}"

    defined = _defined(group, "loss_recovered_zero")
    if not defined:
        return f"At {hook}, loss recovered is not defined for any trained dictionary."
    best = max(defined, key=lambda name: value_of(defined[name], "loss_recovered_zero"))
    sparsest = min(defined, key=lambda name: value_of(defined[name], "l0"))
    if len(defined) == 1:
        part = at_l0(best, "of the loss that zero ablation costs")
        return f"At {hook}, {best} recovers {part}."
    text = (
        f"Of {len(group)} trained dictionaries at {hook}, {_described(best, group)} recovers the "
        f"largest part of the loss that zero ablation costs: "
        f"{at_l0(best)}{_ties(records, best, key)}."
    )
    if value_of(group[best], key) > 1:
        text += (
            " Above 1, predictions are better with the estimate than with the activation itself."
        )
    if sparsest == best:
        return f"{text} It is also the sparsest."
    return f"{text} The sparsest, {sparsest}, recovers {at_l0(sparsest)}."


def _reconstructs(records: Records) -> str:
    key = "fraction_variance_unexplained"
    defined = _defined(records.dictionaries, key)
    if len(defined) < 2:
        return ""
    best = min(defined, key=lambda name: value_of(defined[name], key))
    fvu = formatted(key, value_of(defined[best], key))
    spread = intervals_of(records, [key])[key]
    if best in spread:
        fvu = with_interval(key, spread[best])
    l0 = formatted("l0", value_of(defined[best], "l0"))
    ties = _ties(records, best, key)
    return f"{best} leaves the least variance unexplained (FVU {fvu} at L0 {l0}){ties}."


def _ties(records: Records, best: str, metric: str) -> str:
    """The dictionaries whose difference from the best one has an interval that holds 0."""
    resampled = {name: r for name, r in records.dictionaries.items() if r.sums}
    if best not in resampled:
        return ""
    behind = differences_frame(replace(records, dictionaries=resampled), metric, best)
    tied = [str(name) for name in behind.index[(behind["low"] <= 0) & (behind["high"] >= 0)]]
    return f"; {_tie(tied)}" if tied else ""


def _tie(names: list[str]) -> str:
    shown = listed(names) if len(names) <= _LISTED else f"{len(names)} others"
    return f"{shown} {'ties' if len(names) == 1 else 'tie'} with it"


def _worse_than_mean(group: dict[str, DictionaryRecord]) -> str:
    worse = [name for name, r in group.items() if value_of(r, "loss_recovered_mean") < 0]
    return f"Worse than predicting the mean activation: {', '.join(worse)}." if worse else ""


def _dead(group: dict[str, DictionaryRecord]) -> str:
    shares = {name: value_of(record, "dead_fraction") for name, record in group.items()}
    many = {name: share for name, share in shares.items() if share >= DEAD_LIMIT}
    shown = [f"{name} ({formatted('dead_fraction', share)})" for name, share in many.items()]
    if len(many) > _LISTED:
        worst = max(many, key=many.__getitem__)
        return (
            f"In {len(many)} dictionaries many features were never active, most of all in {worst} "
            f"({formatted('dead_fraction', many[worst])})."
        )
    return f"Many features of {listed(shown)} were never active." if many else ""


def _defined(group: dict[str, DictionaryRecord], metric: str) -> dict[str, DictionaryRecord]:
    return {name: r for name, r in group.items() if math.isfinite(value_of(r, metric))}
