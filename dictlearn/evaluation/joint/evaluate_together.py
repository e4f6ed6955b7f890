"""`evaluate_together`: the loss of the model that runs through several dictionaries at once."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.named import Dictionaries
from dictlearn.core.numbers import whole
from dictlearn.core.sites import Site
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.sequence_sums import SequenceSums
from dictlearn.evaluation.origins import require_fitting, required_dictionaries
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.in_place import require_order, shared_target
from dictlearn.lm.sites import require_readable
from dictlearn.metrics.intervals import jackknife_interval
from dictlearn.metrics.pooled import METRICS, PooledMetric
from dictlearn.metrics.predictions import compared
from dictlearn.progress import progress as progress_bar
from dictlearn.progress import timed
from dictlearn.records.joint import JointRecords, Measured, SetRecord

ALL, NONE = "all", "none"
_METRICS = ("cross_entropy_clean", "cross_entropy_spliced", "kl", "loss_recovered_zero",
            "kl_recovered_zero", "top1_agreement")  # fmt: skip


@timed("evaluate together")
def evaluate_together(
    dictionaries: Dictionaries,
    model: LanguageModel,
    tokens: Tokens,
    *,
    sets: Mapping[str, Iterable[str]] | None = None,
    exclude_special: bool = True,
    batch_size: int | None = None,
    allow_other_model: bool = False,
    progress: bool = True,
) -> JointRecords:
    """The records of `model` with sets of `dictionaries` in their places together.

    The sets are all of them, all but each, none, and those that `sets` names: the replacement model
    of Dunefsky et al. 2024 (section 4.3) is all MLPs, or all but the first and the last. Each
    dictionary reads its source in the very pass that the others change. Loss recovered is measured
    against zeros at all targets of the set. Special tokens are neither replaced nor predicted,
    unless `exclude_special` is off. Metrics are ratios of sums over all sequences, with 95 %
    intervals.

    Raises:
        InputError: no dictionary, an unknown name in a set, a set with the name of one that is
            always there, a `batch_size` below 1, a hook that the model does not have, a wrong
            width, two dictionaries of one set at one target, or an estimate that depends on what
            comes later in a pass.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    require_readable(model, tokens)
    dictionaries = required_dictionaries("evaluate_together", dictionaries)
    origin, transfer = require_fitting(dictionaries, model, allow_other_model=allow_other_model)
    chosen = require_sets(model, dictionaries, sets or {})
    if batch_size is not None and (whole(batch_size) or 0) < 1:
        raise InputError(
            f"required a whole number of sequences of at least 1 as batch_size, or None, which "
            f"chooses one, got {batch_size!r:.80}"
        )
    counted = tokens.counted(exclude_special=exclude_special)
    if not counted.any():
        raise InputError("required at least one token to evaluate, got special ones only")
    passes = CleanPasses(model, tokens.ids, counted, dictionaries.values(), batch_size)
    sums = {name: SequenceSums(len(tokens)) for name in chosen}
    sets_of = {name: [dictionaries[d] for d in members] for name, members in chosen.items()}
    with (
        progress_bar("evaluating", passes.n_batches, show=progress) as done,
        passes.batches() as batches,
    ):
        for i, batch in enumerate(batches):
            _measure(batch, model, sets_of, sums)
            done(i + 1)
    described = tokens.describe() | {
        "exclude_special": exclude_special, "shortcuts": passes.splicer.shortcuts.names, **transfer
    }  # fmt: skip
    return JointRecords(
        origin.on(tokens, exclude_special=exclude_special), described,
        {name: SetRecord(members, _metrics(sums[name])) for name, members in chosen.items()},
    )  # fmt: skip


def require_sets(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    given: Mapping[str, Iterable[str]] = MappingProxyType({}),
) -> dict[str, tuple[str, ...]]:
    """The names of the dictionaries of each set, in the order of results.

    Raises:
        InputError: a set cannot be in place together in `model`, or has the name of another.
    """
    require_order(model, dictionaries)
    names = tuple(dictionaries)
    but = {f"{ALL} but {left_out}": tuple(n for n in names if n != left_out) for left_out in names}
    asked = _named_sets(given, (ALL, NONE, *but))
    found = {ALL: names} | (but if len(names) > 1 else {}) | asked | {NONE: ()}
    for name, members in found.items():
        for member in members:
            if member not in dictionaries:
                raise InputError(
                    f"the set {name!r} has {member!r}, which is no dictionary; "
                    f"{nearest(member, names)}"
                )
        if shared := shared_target(model, {member: dictionaries[member] for member in members}):
            hook, *both = shared
            raise InputError(
                f"in the set {name!r} several dictionaries replace {hook!r} "
                f"({', '.join(both)}): required one for each target"
            )
    return found


def _named_sets(given: object, reserved: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The sets by name, each member once."""
    if not isinstance(given, Mapping):
        raise InputError(
            f"required a dict as sets, such as {{'ends': ['a', 'b']}}, got {given!r:.80}"
        )
    for name, members in given.items():
        if name in reserved or not isinstance(name, str):
            raise InputError(
                f"required another name than {', '.join(map(repr, reserved))} for a set, got "
                f"{name!r:.80}; those are kept for sets of its own"
            )
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise InputError(
                f"required a list of names of dictionaries as the set {name!r}, got "
                f"{members!r:.80}; [{members!r:.80}] is a set of one"
            )
    return {name: tuple(dict.fromkeys(members)) for name, members in given.items()}


def _measure(
    batch: CleanBatch,
    model: LanguageModel,
    sets: Mapping[str, list[FeatureDictionary]],
    sums: Mapping[str, SequenceSums],
) -> None:
    """Add the predictions of a batch, with the estimates of each set and with zeros instead."""
    rows: dict[tuple[str, bool], Tensor] = {}
    for name, members in sets.items():
        rows[name, True] = batch.running(members) if members else batch.clean.rows
        if members:
            site = Site.joined(d.sites.target for d in members)
            zeros = torch.zeros_like(batch.rows_at(site))
            rows[name, False] = batch.spliced(site, zeros)
    loss, found = compared(
        batch.splicer.logits, model.cfg.d_vocab, batch.clean.rows, rows, batch.targets
    )
    for name in sets:
        running, zero = found[name, True], found.get((name, False))
        undefined = torch.full_like(loss, torch.nan)
        values = {
            "predictions": torch.ones_like(loss),
            "cross_entropy_clean": loss,
            "cross_entropy_spliced": running.cross_entropy,
            "kl": running.kl,
            "top1_agreement": running.top1_agreement,
            "cross_entropy_zero": undefined if zero is None else zero.cross_entropy,
            "kl_zero": undefined if zero is None else zero.kl,
        }
        sums[name].add_(batch.prediction_sequences, values)


def _metrics(sums: SequenceSums) -> dict[str, Measured]:
    declared = {metric.name: metric for metric in METRICS}
    return {name: _measured(declared[name], sums) for name in _METRICS}


def _measured(metric: PooledMetric, sums: SequenceSums) -> Measured:
    own = {name: sums[name] for name in metric.sums}
    value = metric({name: s.sum() for name, s in own.items()}).item()
    if value != value:
        return Measured(value, reason="no target is ablated" if metric.name.endswith("zero")
                        else metric.undefined)  # fmt: skip
    left_out = metric({name: s.sum() - s for name, s in own.items()})
    return Measured(*jackknife_interval(value, left_out))
