"""The only training loop."""

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from dictlearn.core.batches import Activations, Batch, Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, NonFiniteError
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.files import CONFIG_FILE
from dictlearn.distributed.interruption import Interrupted, Interruption, interruptible
from dictlearn.distributed.launching import join
from dictlearn.distributed.process_group import SINGLE as ALONE
from dictlearn.training.ahead import reading_ahead
from dictlearn.training.batches import as_activations
from dictlearn.training.checkpoints import (
    CHECKPOINT_FILE,
    Checkpoint,
    differences,
    load_checkpoint,
)
from dictlearn.training.config import FitConfig
from dictlearn.training.divergence import diverged, numbers, stop
from dictlearn.training.output import go_on, prepare, write_checkpoint, write_dictionaries
from dictlearn.training.progress import LOG_FILE, LiveView, TrainingLog
from dictlearn.training.run import Run, set_up

SINGLE = "dictionary"
"""The name in logs and checkpoints where one config is given without a name."""


@overload
def fit(
    configs: DictionaryConfig,
    activations: Activations | Tensor | tuple[Tensor, Tensor],
    fit_config: FitConfig | None = None,
    *,
    sites: Sites | Mapping[str, Sites] | None = None,
    init: FeatureDictionary | Mapping[str, FeatureDictionary] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> FeatureDictionary: ...


@overload
def fit(
    configs: Mapping[str, DictionaryConfig],
    activations: Activations | Tensor | tuple[Tensor, Tensor],
    fit_config: FitConfig | None = None,
    *,
    sites: Sites | Mapping[str, Sites] | None = None,
    init: FeatureDictionary | Mapping[str, FeatureDictionary] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, FeatureDictionary]: ...


def fit(
    configs: DictionaryConfig | Mapping[str, DictionaryConfig],
    activations: Activations | Tensor | tuple[Tensor, Tensor],
    fit_config: FitConfig | None = None,
    *,
    sites: Sites | Mapping[str, Sites] | None = None,
    init: FeatureDictionary | Mapping[str, FeatureDictionary] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> FeatureDictionary | dict[str, FeatureDictionary]:
    """The dictionaries that `configs` describe, trained in one pass over `activations`.

    `activations` is a store, a live stream, or tensors: rows `x` for autoencoders, or `(x, y)`.
    Every dictionary sees the same batches and has its own random numbers, so each is
    bit-identical to training it alone. One config returns one dictionary, a dict of them a dict.

    If several sites were harvested, `sites` is the site of all dictionaries, or maps the name of
    each to its site, so that one pass over activations of all layers trains a dictionary at
    each. By default, kinds that read or write several hooks join all sites.

    Training starts from `init`, if given: a dictionary of the same kind and shapes (this library's
    or a downloaded one), or several by name for those that do not start afresh. It keeps its mean
    and scale; optimizer and schedules begin anew. That is how a finished run is continued:
    `fit(d.config, activations, run, init=d)` with `d = load(folder)`.

    With `out`, that folder receives `train.jsonl`, a checkpoint that a later call with the same
    arguments continues to the same bits, and at the end the dictionaries (each in a folder of
    its name; a single one in `out` itself), when the checkpoint is removed. With `overwrite`, the
    files of an earlier run there are removed before, and no others.

    A dictionary that diverges stops alone: the others are the same as without it, the log and a
    warning say why, and if there was a checkpoint, its state then is kept in `NAME.stopped`. SIGINT
    and SIGTERM are delivered once a checkpoint is written. The same call without some of the
    dictionaries continues with the others.

    In a script that torchrun starts, or under `distributed.launching.launch`, every process makes
    the same call: they divide each batch between them, the first one writes, and all return the
    same dictionaries, equal but for rounding to those of one process.

    Raises:
        InputError, ConfigError: something in the arguments cannot work; nothing has started.
        ProcessError: another process of this run has failed.
        StorageError: `out` cannot be written or is too small.
        NonFiniteError: activations became NaN or infinite, or every loss did; the last checkpoint
            stays.
    """
    fit_config = FitConfig() if fit_config is None else fit_config
    if not isinstance(fit_config, FitConfig):
        raise ConfigError(f"required FitConfig(steps=…, …), got {fit_config!r}")
    single = isinstance(configs, DictionaryConfig)
    named = {SINGLE: configs} if isinstance(configs, DictionaryConfig) else configs
    _require_configs(named)
    group = join()
    initial = {SINGLE: init} if single and isinstance(init, FeatureDictionary) else init
    run = group.all_succeed(
        lambda: set_up(named, as_activations(activations), fit_config, group, out, sites, initial)
    )
    with ExitStack() as held:
        group.all_succeed(lambda: held.enter_context(run.locked()))
        start = _start(run, single=single, overwrite=overwrite)
        with interruptible() if run.folder else nullcontext(Interruption()) as interruption:
            stopped = _train(run, start, interruption, show=progress)
        dictionaries = {
            name: learner.finish() for name, learner in run.learners.items() if name not in stopped
        }
        if not dictionaries:
            raise NonFiniteError("; ".join(stopped.values()))
        group.all_succeed(lambda: write_dictionaries(run, dictionaries, stopped, single=single))
    return dictionaries[SINGLE] if single else dictionaries


def _start(run: Run, *, single: bool, overwrite: bool) -> Checkpoint:
    """The checkpoint to start from; the folder is made ready."""
    group, files = run.group, run.files
    for rank, other in enumerate(group.all_gather_object(run.description)):
        if other != run.description:
            raise InputError(
                f"every process must call fit alike, and process {rank} differs from "
                f"{group.rank} in {', '.join(differences(other, run.description))}"
            )
    for learner in run.learners.values():
        if learner.shares_batch:
            group.broadcast_(learner.dictionary.state_dict().values())
    group.all_succeed(lambda: prepare(run, single=single, overwrite=overwrite))
    if files is None:
        return Checkpoint(0, dict(run.description))
    start = group.all_succeed(lambda: load_checkpoint(files, run.learners, run.description))
    if len(starts := {found.step for found in group.all_gather_object(start)}) > 1:
        raise InputError(
            f"required a folder that all processes share, got {run.folder}, where they find "
            f"checkpoints of different steps ({', '.join(map(str, sorted(starts)))})"
        )
    group.all_succeed(lambda: go_on(run.written, start.step))
    return start


def _train(
    run: Run, start: Checkpoint, interruption: Interruption, *, show: bool
) -> dict[str, str]:
    """Give every learner every batch from the start on; log, show and write checkpoints.

    A learner that diverges stops, and the others go on. Those that stopped are returned, each
    with the reason.
    """
    config, group, stopped = run.config, run.group, dict(start.stopped)
    log = TrainingLog(run.written, start.step)
    device, together = torch.device(config.device), run.batches.reads_together
    with (
        LiveView(run.learners, config.steps, start.step, show=show and group.is_main) as view,
        reading_ahead(partial(_read, run), config.steps, device, together=together) as read,
    ):
        for step in range(start.step, config.steps):
            learners = {name: x for name, x in run.learners.items() if name not in stopped}
            if not learners:
                break
            rows = group.all_succeed(partial(read, step))
            scalars = {
                name: learner.update(_batch(run, name, rows, step))
                for name, learner in learners.items()
            }
            done = step + 1
            view.advance(done)
            last = done == config.steps
            bad: dict[str, str] = {}
            if done % config.log_every == 0 or last:
                values, bad = numbers(scalars, done)
                view.show(values, log.write(done, values, config.batch_size))
            ends = bool(run.folder) and group.any(interruption.signal is not None)
            saves = last or ends or (run.folder and done % config.checkpoint_every == 0)
            if saves:
                bad = diverged(run, done, stopped) | bad
            reasons = stop(run, bad)
            stopped |= reasons
            log.stopped(done, reasons)
            if saves:
                if run.folder and len(stopped) < len(run.learners):
                    write_checkpoint(run, Checkpoint(done, dict(run.description), stopped))
                if ends and not last:
                    again = "to continue, call fit again (without overwrite)"
                    raise Interrupted(f"stopped after step {done}; {again}")
    return stopped


def _read(run: Run, step: int) -> dict[bool, Rows]:
    """The rows of a step, for learners that share batches between processes and for the others."""
    group, shared = run.group, {learner.shares_batch for learner in run.learners.values()}
    if shared == {True}:
        return {True: run.batches.rows(step, group)}
    whole = run.batches.rows(step)
    return {True: whole.of(group.rank, group.world_size), False: whole}


def _batch(run: Run, name: str, rows: Mapping[bool, Rows], step: int) -> Batch:
    """The part of the rows that the learner `name` learns from in this process."""
    shares = run.learners[name].shares_batch
    return run.batches.batch(rows[shares], run.sites[name], step, run.group if shares else ALONE)


def _require_configs(configs: Any) -> None:
    if not isinstance(configs, Mapping) or not configs:
        raise InputError(
            f"fit needs a config, or a dict of configs by name with at least one, got {configs!r}"
        )
    for name, config in configs.items():
        if not isinstance(config, GradientConfig | ClosedFormConfig):
            raise ConfigError(
                f"required a dictionary config (SAEConfig(...), CodebookConfig(...), …) for "
                f"{name!r}, got {type(config).__name__}"
            )
        reserved = (CHECKPOINT_FILE, LOG_FILE, CONFIG_FILE)
        if not is_file_name(name) or name.startswith(".") or name in reserved:
            raise InputError(
                "a dictionary's name becomes a folder: required a name without '/', '\\' or a "
                f"leading dot, and none of {', '.join(reserved)}; got {name!r}"
            )
