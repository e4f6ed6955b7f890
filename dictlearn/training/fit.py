"""The only training loop."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from dictlearn.core.batches import Activations
from dictlearn.core.config import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, NonFiniteError
from dictlearn.core.files import writable_folder
from dictlearn.core.learning import Learner
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.files import CONFIG_FILE, save
from dictlearn.training.batches import RunBatches, as_activations
from dictlearn.training.checkpoints import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.progress import LOG_FILE, LiveView, TrainingLog
from dictlearn.training.standardize import Standardization, Units, fit_units

SINGLE = "dictionary"
"""The name in logs and checkpoints where one config is given without a name."""


@overload
def fit(
    configs: DictionaryConfig,
    activations: Activations | Tensor | tuple[Tensor, Tensor],
    fit_config: FitConfig | None = None,
    *,
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
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, FeatureDictionary]: ...


def fit(
    configs: DictionaryConfig | Mapping[str, DictionaryConfig],
    activations: Activations | Tensor | tuple[Tensor, Tensor],
    fit_config: FitConfig | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> FeatureDictionary | dict[str, FeatureDictionary]:
    """The dictionaries that `configs` describe, trained in one pass over `activations`.

    `activations` is a store, a live stream, or tensors: rows `x` for autoencoders, or `(x, y)`.
    Every dictionary sees the same batches and owns its random numbers, so each is equal to the
    bit to what training it alone gives. One config returns one dictionary, a dict of them a dict.

    With `out`, that folder receives `train.jsonl`, a checkpoint that a later call with the same
    arguments continues to the same bits, and at the end the dictionaries (each in a folder of
    its name; a single one in `out` itself), when the checkpoint is removed.

    Raises:
        InputError, ConfigError: something in the arguments cannot work; nothing has started.
        StorageError: `out` cannot be written or is too small.
        NonFiniteError: activations or a loss became NaN or infinite; the last checkpoint stays.
    """
    fit_config = FitConfig() if fit_config is None else fit_config
    if not isinstance(fit_config, FitConfig):
        raise ConfigError(f"required FitConfig(steps=…, …), got {fit_config!r}")
    single = isinstance(configs, DictionaryConfig)
    named = {SINGLE: configs} if isinstance(configs, DictionaryConfig) else configs
    _require_configs(named)
    rows = as_activations(activations)
    offered = rows.only_sites
    sites = {name: config.sites(offered) for name, config in named.items()}
    batches = RunBatches(rows, fit_config)
    learners = _make_learners(named, sites, fit_config, batches)
    folder = _prepare(out, learners, overwrite=overwrite)
    description = _describe(named, sites, fit_config, batches) if folder else {}
    start = load_checkpoint(folder, learners, description) if folder else 0

    _train(learners, sites, batches, fit_config, start, folder, description, show=progress)
    _require_finite_state(learners, fit_config.steps)
    provenance = rows.provenance.with_seed(fit_config.seed)
    dictionaries = {name: learner.finish() for name, learner in learners.items()}
    for name, dictionary in dictionaries.items():
        dictionary.provenance = provenance
        if folder:
            save(dictionary, folder if single else folder / name)
    if folder:
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return dictionaries[SINGLE] if single else dictionaries


def _train(
    learners: Mapping[str, Learner],
    sites: Mapping[str, Sites],
    batches: RunBatches,
    config: FitConfig,
    start: int,
    folder: Path | None,
    description: Mapping[str, Any],
    *,
    show: bool,
) -> None:
    """Give every learner every batch from step `start` on; log, show and write checkpoints."""
    log = TrainingLog(folder, start)
    with LiveView(learners, config.steps, start, show=show) as view:
        for step in range(start, config.steps):
            rows = batches.rows(step)
            scalars = {n: learner.update(rows.batch(sites[n])) for n, learner in learners.items()}
            done = step + 1
            view.advance(done)
            last = done == config.steps
            if done % config.log_every == 0 or last:
                values = _finite(scalars, done)
                view.show(values, log.write(done, values, config.batch_size))
            if folder and done % config.checkpoint_every == 0 and not last:
                _require_finite_state(learners, done)
                save_checkpoint(folder, learners, done, description)


def _make_learners(
    configs: Mapping[str, DictionaryConfig],
    sites: Mapping[str, Sites],
    fit_config: FitConfig,
    batches: RunBatches,
) -> dict[str, Learner]:
    learners: dict[str, Learner] = {}
    units: dict[str, Units] = {}
    for name, config in configs.items():
        at = sites[name]
        if isinstance(config, ClosedFormConfig):
            learners[name] = config.learner(at, seed=fit_config.seed)
            continue
        assert isinstance(config, GradientConfig)
        for site in (at.source, at.target):
            if site.hook not in units:
                units[site.hook] = fit_units(site, (rows.at[site.hook] for rows in batches.first()))
        learners[name] = GradientLearner(
            config,
            at,
            fit_config,
            Standardization(units[at.source.hook], units[at.target.hook]),
            partial(batches.at, at),
        )
    return learners


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
        if (
            not isinstance(name, str)
            or not name
            or "/" in name
            or name.startswith(".")
            or name in reserved
        ):
            raise InputError(
                "a dictionary's name becomes a folder: required a name without '/' or a leading "
                f"dot, and none of {', '.join(reserved)}; got {name!r}"
            )


def _prepare(
    out: str | Path | None, learners: Mapping[str, Learner], *, overwrite: bool
) -> Path | None:
    """The output folder, writable and large enough; emptied of an earlier run on request."""
    if out is None:
        return None
    # Weights and two moments in a checkpoint, twice while it is replaced, and the result.
    weights = sum(
        t.nbytes for learner in learners.values() for t in learner.dictionary.state_dict().values()
    )
    folder = writable_folder(out, 7 * weights)
    finished = [*folder.glob(CONFIG_FILE), *folder.glob(f"*/{CONFIG_FILE}")]
    if overwrite:
        for path in (folder / CHECKPOINT_FILE, folder / LOG_FILE, *finished):
            path.unlink(missing_ok=True)
    elif finished and not (folder / CHECKPOINT_FILE).exists():
        where = ", ".join(str(path.parent) for path in finished)
        raise InputError(
            f"a trained dictionary is already in {where}; choose another folder, or overwrite "
            "that run (overwrite=True, --overwrite)"
        )
    return folder


def _describe(
    configs: Mapping[str, DictionaryConfig],
    sites: Mapping[str, Sites],
    fit_config: FitConfig,
    batches: RunBatches,
) -> dict[str, Any]:
    """What decides a run's bits, as JSON: a checkpoint is good only for the same."""
    return {
        "fit_config": fit_config.to_dict(),
        "dictionaries": {
            name: {"kind": c.kind, "sites": sites[name].to_dict(), "config": c.to_dict()}
            for name, c in configs.items()
        },
        "activations": batches.describe(),
    }


def _require_finite_state(learners: Mapping[str, Learner], step: int) -> None:
    """Check what a checkpoint or a result would hold: the loss was that of before the step."""
    for name, learner in learners.items():
        for key, tensor in learner.state().items():
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
