"""The only training loop."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from dictlearn.core.batches import Activations, Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, NonFiniteError
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.files import writable_folder
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.files import CONFIG_FILE, WEIGHTS_FILE, save
from dictlearn.distributed.launching import join
from dictlearn.training.ahead import reading_ahead
from dictlearn.training.batches import as_activations
from dictlearn.training.checkpoints import (
    CHECKPOINT_FILE,
    States,
    differences,
    load_checkpoint,
    save_checkpoint,
)
from dictlearn.training.config import FitConfig
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

    With `out`, that folder receives `train.jsonl`, a checkpoint that a later call with the same
    arguments continues to the same bits, and at the end the dictionaries (each in a folder of
    its name; a single one in `out` itself), when the checkpoint is removed. With `overwrite`, the
    files of an earlier run there are removed before, and no others.

    In a script that torchrun starts, or under `distributed.launching.launch`, every process makes
    the same call: they divide each batch between them, the first one writes, and all return the
    same dictionaries, equal but for rounding to those of one process.

    Raises:
        InputError, ConfigError: something in the arguments cannot work; nothing has started.
        ProcessError: another process of this run has failed.
        StorageError: `out` cannot be written or is too small.
        NonFiniteError: activations or a loss became NaN or infinite; the last checkpoint stays.
    """
    fit_config = FitConfig() if fit_config is None else fit_config
    if not isinstance(fit_config, FitConfig):
        raise ConfigError(f"required FitConfig(steps=…, …), got {fit_config!r}")
    single = isinstance(configs, DictionaryConfig)
    named = {SINGLE: configs} if isinstance(configs, DictionaryConfig) else configs
    _require_configs(named)
    group = join()
    run = group.all_succeed(
        lambda: set_up(named, as_activations(activations), fit_config, group, out, sites)
    )
    start = _start(run, single=single, overwrite=overwrite)
    _train(run, start, show=progress)
    group.all_succeed(partial(_require_finite, run.states(), run.config.steps))
    dictionaries = {name: learner.finish() for name, learner in run.learners.items()}
    group.all_succeed(lambda: _keep(run, dictionaries, single=single))
    return dictionaries[SINGLE] if single else dictionaries


def _start(run: Run, *, single: bool, overwrite: bool) -> int:
    """The step to start from: that of the checkpoint in the folder, which is then ready."""
    group, folder = run.group, run.folder
    for rank, other in enumerate(group.all_gather_object(run.description)):
        if other != run.description:
            raise InputError(
                f"every process must call fit alike, and process {rank} differs from "
                f"{group.rank} in {', '.join(differences(other, run.description))}"
            )
    for learner in run.learners.values():
        if learner.shares_batch:
            group.broadcast_(learner.dictionary.state_dict().values())
    group.all_succeed(lambda: _prepare(run, single=single, overwrite=overwrite))
    if folder is None:
        return 0
    start = group.all_succeed(lambda: load_checkpoint(folder, run.learners, run.description))
    if len(starts := set(group.all_gather_object(start))) > 1:
        raise InputError(
            f"required a folder that all processes share, got {folder}, where they find "
            f"checkpoints of different steps ({', '.join(map(str, sorted(starts)))})"
        )
    group.all_succeed(lambda: _go_on(run.written, start))
    return start


def _train(run: Run, start: int, *, show: bool) -> None:
    """Give every learner every batch from step `start` on; log, show and write checkpoints."""
    config, learners, group = run.config, run.learners, run.group
    log = TrainingLog(run.written, start)
    device = torch.device(config.device)
    with (
        LiveView(learners, config.steps, start, show=show and group.is_main) as view,
        reading_ahead(partial(_read, run), config.steps, device) as read,
    ):
        for step in range(start, config.steps):
            rows = group.all_succeed(partial(read, step))
            scalars = {
                name: learner.update(rows[learner.shares_batch].batch(run.sites[name]))
                for name, learner in learners.items()
            }
            done = step + 1
            view.advance(done)
            last = done == config.steps
            if done % config.log_every == 0 or last:
                values = _finite(scalars, done)
                view.show(values, log.write(done, values, config.batch_size))
            if run.folder and done % config.checkpoint_every == 0 and not last:
                group.all_succeed(partial(_save_checkpoint, run, run.states(), done))


def _read(run: Run, step: int) -> dict[bool, Rows]:
    """The rows of a step, for learners that share batches between processes and for the others."""
    group, shared = run.group, {learner.shares_batch for learner in run.learners.values()}
    if shared == {True}:
        return {True: run.batches.rows(step, group)}
    whole = run.batches.rows(step)
    return {True: whole.of(group.rank, group.world_size), False: whole}


def _save_checkpoint(run: Run, states: States, step: int) -> None:
    _require_finite(states, step)
    if run.written:
        save_checkpoint(run.written, states, step, run.description)


def _keep(run: Run, dictionaries: Mapping[str, FeatureDictionary], *, single: bool) -> None:
    """Give the dictionaries their origin and write them, if there is a folder."""
    for name, dictionary in dictionaries.items():
        dictionary.provenance = run.provenance
        if run.written:
            save(dictionary, run.written if single else run.written.folder(name))
    if run.written:
        run.written.remove(CHECKPOINT_FILE)
        run.written.adopt(LOG_FILE)


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


def _prepare(run: Run, *, single: bool, overwrite: bool) -> None:
    """Make the output folder writable and large enough; empty it of an earlier run on request.

    Whatever is to be written there has to have room: no file of others may be in its place.
    """
    own, learners = run.written, run.learners
    if own is None:
        return
    # Weights and two moments in a checkpoint, twice while it is replaced, and the result.
    weights = sum(
        t.nbytes for learner in learners.values() for t in learner.dictionary.state_dict().values()
    )
    writable_folder(own.path, 7 * weights)
    finished = [
        str(found.path)
        for found in (own, *own.folders())
        if found.lists(CONFIG_FILE) and (found.path / CONFIG_FILE).exists()
    ]
    if finished and not overwrite and not (own.path / CHECKPOINT_FILE).exists():
        raise InputError(
            f"a trained dictionary is already in {', '.join(finished)}; choose another folder, or "
            "overwrite that run (overwrite=True, --overwrite)"
        )
    for place in [own] if single else map(own.inside, learners):
        place.require(CONFIG_FILE, WEIGHTS_FILE)
    if overwrite:
        own.require(CHECKPOINT_FILE, LOG_FILE)
        own.clear()


def _go_on(own: OwnFiles | None, start: int) -> None:
    """Ensure that log and checkpoint of a run from step `start` on can be written."""
    if own is not None:
        if start:  # the checkpoint is of this very run, if perhaps by a version without lists
            own.adopt(CHECKPOINT_FILE, LOG_FILE)
        own.require(CHECKPOINT_FILE, LOG_FILE)


def _require_finite(states: States, step: int) -> None:
    """Check that weights are finite, since the loss was computed before the step."""
    for name, state in states.items():
        for key, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise NonFiniteError(
                    f"{key} of {name!r} holds NaN or infinity after step {step}; training stopped "
                    "and nothing was written. Lower learning_rate, or set max_gradient_norm"
                )


def _finite(scalars: Mapping[str, Mapping[str, Tensor]], step: int) -> dict[str, dict[str, float]]:
    """The scalars as numbers.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    values = {
        name: {metric: float(value) for metric, value in metrics.items()}
        for name, metrics in scalars.items()
    }
    for name, metrics in values.items():
        if not math.isfinite(metrics.get("loss", 0.0)):
            raise NonFiniteError(
                f"the loss of {name!r} is {metrics['loss']} at step {step}; training stopped. "
                "Lower learning_rate, or set max_gradient_norm"
            )
    return values
