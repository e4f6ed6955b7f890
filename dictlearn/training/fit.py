"""Training of dictionaries on activations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from torch import Tensor

from dictlearn.core.batches import Activations
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.files import CONFIG_FILE
from dictlearn.distributed.launching import join
from dictlearn.progress import timed
from dictlearn.training.batches import as_activations
from dictlearn.training.checkpoints import CHECKPOINT_FILE
from dictlearn.training.config import FitConfig
from dictlearn.training.fit_run import ALONE, set_up
from dictlearn.training.loop import carried_out
from dictlearn.training.output import write_dictionaries
from dictlearn.training.progress import LOG_FILE
from dictlearn.training.run import Outcome


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


@timed("train")
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
    named = {ALONE: configs} if isinstance(configs, DictionaryConfig) else configs
    _require_configs(named)
    group = join()
    initial = {ALONE: init} if single and isinstance(init, FeatureDictionary) else init
    run = group.all_succeed(
        lambda: set_up(
            named, as_activations(activations), fit_config, group, out, sites, initial,
            single=single,
        )
    )  # fmt: skip

    def finish(outcome: Outcome) -> dict[str, FeatureDictionary]:
        dictionaries = {
            name: learner.finish()
            for name, learner in run.learners.items()
            if name not in outcome.stopped
        }
        group.all_succeed(lambda: write_dictionaries(run, dictionaries, outcome))
        return dictionaries

    dictionaries = carried_out(run, finish, overwrite=overwrite, show=progress)
    return dictionaries[ALONE] if single else dictionaries


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
