"""What the numbers of an evaluation say, in sentences."""

import math

from dictlearn.comparison.vocabulary import (
    ReferenceLosses,
    formatted,
    reference_losses,
    trained,
    value_of,
)
from dictlearn.core.records import DictionaryRecord, Records

DEAD_LIMIT = 0.1
"""Fraction of dead features from which the verdict mentions them."""


def verdict(records: Records) -> list[str]:
    """One paragraph for every hook that is replaced: the best trained dictionaries, plainly.

    Loss recovered is only comparable between dictionaries that replace the same tensor, so hooks
    are never mixed.
    """
    by_hook: dict[str, dict[str, DictionaryRecord]] = {}
    for name, record in trained(records).items():
        by_hook.setdefault(record.sites.target.hook, {})[name] = record
    if not by_hook:
        return ["Only baselines were evaluated."]
    losses = reference_losses(records)
    return [
        " ".join(filter(None, _sentences(hook, group, losses[hook])))
        for hook, group in by_hook.items()
    ]


def _sentences(
    hook: str, group: dict[str, DictionaryRecord], losses: ReferenceLosses
) -> tuple[str, ...]:
    return (
        _recovered(hook, group),
        _reconstructs(group),
        f"For reference, the next-token loss in nats is {losses} at this hook.",
        _worse_than_mean(group),
        _dead(group),
    )


def _recovered(hook: str, group: dict[str, DictionaryRecord]) -> str:
    defined = _defined(group, "loss_recovered_zero")
    if not defined:
        return f"At {hook}, loss recovered is not defined for any trained dictionary."
    best = max(defined, key=lambda name: value_of(defined[name], "loss_recovered_zero"))
    leanest = min(defined, key=lambda name: value_of(defined[name], "l0"))
    if len(defined) == 1:
        return f"At {hook}, {best} recovers {_price(defined[best])}."
    text = (
        f"Of {len(group)} trained dictionaries at {hook}, {best} recovers the largest part of "
        f"the loss that zero ablation costs: {_price(defined[best])}."
    )
    if leanest == best:
        return f"{text} It is also the sparsest."
    return f"{text} The sparsest, {leanest}, recovers {_price(defined[leanest])}."


def _price(record: DictionaryRecord) -> str:
    part = formatted("loss_recovered_zero", value_of(record, "loss_recovered_zero"))
    return f"{part} of it at L0 {formatted('l0', value_of(record, 'l0'))}"


def _reconstructs(group: dict[str, DictionaryRecord]) -> str:
    key = "fraction_variance_unexplained"
    defined = _defined(group, key)
    if len(defined) < 2:
        return ""
    best = min(defined, key=lambda name: value_of(defined[name], key))
    fvu = formatted(key, value_of(defined[best], key))
    l0 = formatted("l0", value_of(defined[best], "l0"))
    return f"{best} leaves the least variance unexplained (FVU {fvu} at L0 {l0})."


def _worse_than_mean(group: dict[str, DictionaryRecord]) -> str:
    worse = [name for name, r in group.items() if value_of(r, "loss_recovered_mean") < 0]
    return f"Worse than predicting the mean activation: {', '.join(worse)}." if worse else ""


def _dead(group: dict[str, DictionaryRecord]) -> str:
    shares = {name: value_of(record, "dead_fraction") for name, record in group.items()}
    many = [f"{n} ({formatted('dead_fraction', v)})" for n, v in shares.items() if v >= DEAD_LIMIT]
    return f"Many features of {', '.join(many)} were never active." if many else ""


def _defined(group: dict[str, DictionaryRecord], metric: str) -> dict[str, DictionaryRecord]:
    return {name: r for name, r in group.items() if math.isfinite(value_of(r, metric))}
