"""The state of one call of `fit` in one process, created and checked before training starts."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dictlearn.core.batches import Activations, Batch, Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, nearest
from dictlearn.core.kinds import ClosedFormConfig, DictionaryConfig, GradientConfig
from dictlearn.core.learning import Learner, TrainableDictionary
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.distributed.launching import own_device
from dictlearn.distributed.process_group import SINGLE, ProcessGroup
from dictlearn.training.batches import RunBatches
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.initial import starts, weights_hash
from dictlearn.training.run import Run
from dictlearn.training.standardize import Standardization, Units, fit_all_units

ALONE = "dictionary"
"""The name in logs and checkpoints where one config is given without a name."""


@dataclass(frozen=True)
class FitRun(Run):
    """Dictionaries that are trained on rows of activations."""

    config: FitConfig
    kinds: Mapping[str, DictionaryConfig]
    sites: Mapping[str, Sites]
    batches: RunBatches
    units: Mapping[str, Units]
    inits: Mapping[str, str]
    """The hashes of the weights that dictionaries start from, where they do not start afresh."""
    origin: Provenance
    """The provenance of the activations."""
    single: bool
    """Whether one config was given without a name, whose dictionary has the folder to itself."""

    @property
    def reads_together(self) -> bool:
        """Whether reading is a collective operation of the group."""
        return self.batches.reads_together

    @property
    def continues(self) -> bool:
        """Whether some dictionary starts from a trained one."""
        return bool(self.inits)

    def read(self, step: int) -> dict[bool, Rows]:
        """The rows of a step, for learners that share batches between processes and for others."""
        group, shared = self.group, {learner.shares_batch for learner in self.learners.values()}
        if shared == {True}:
            return {True: self.batches.rows(step, group)}
        whole = self.batches.rows(step)
        return {True: whole.of(group.rank, group.world_size), False: whole}

    def batch(self, name: str, read: Mapping[bool, Rows], step: int) -> Batch:
        """The part of the rows that the learner `name` learns from in this process."""
        shares = self.learners[name].shares_batch
        group = self.group if shares else SINGLE
        return self.batches.batch(read[shares], self.sites[name], step, group)

    @staticmethod
    def tensors(read: Mapping[bool, Rows]) -> Iterable[Tensor]:
        """The rows at every hook."""
        return (x for rows in read.values() for x in rows.at.values())

    def places(self) -> list[OwnFiles]:
        """A folder by the name of each dictionary, or the folder itself."""
        if self.written is None:
            return []
        return [self.written] if self.single else [self.written.inside(n) for n in self.learners]

    def provenance_of(self, name: str, final: Mapping[str, float]) -> Provenance:
        """The provenance of one of the dictionaries, with the last numbers of its log."""
        out = {
            hook: f"{u.n_left_out} of the first {u.n_rows} rows, with norms over {u.limit:.4g}"
            for hook, u in self.units.items()
            if self.config.max_norm_ratio and hook in self.sites[name].hooks
        }
        kind = self.kinds[name]
        rate = self.config.peak_learning_rate(kind) if isinstance(kind, GradientConfig) else None
        return self.origin.trained(
            self.config.seed, fit_config=self.config.to_dict(), left_out=out,
            learning_rate=rate, rows=self.config.steps * self.config.batch_size,
            init=self.inits.get(name), final={k: v for k, v in final.items() if math.isfinite(v)},
        )  # fmt: skip


def set_up(
    configs: Mapping[str, DictionaryConfig],
    activations: Activations,
    fit_config: FitConfig,
    group: ProcessGroup,
    out: str | Path | None,
    given: Sites | Mapping[str, Sites] | None = None,
    init: FeatureDictionary | Mapping[str, FeatureDictionary] | None = None,
    *,
    single: bool = False,
) -> FitRun:
    """Everything that is made and checked before the processes compare what they have."""
    if fit_config.batch_size % group.world_size and not fit_config.shard_features:
        raise ConfigError(
            f"FitConfig.batch_size, the rows of all processes together, must be divisible by their "
            f"number ({group.world_size}), got {fit_config.batch_size}"
        )
    placed = replace(fit_config, device=own_device(str(fit_config.torch_device), group))
    sites = _chosen(configs, activations, given)
    batches = RunBatches(activations, placed, group)
    complete = {name: c.given(activations.mlp_weights(sites[name])) for name, c in configs.items()}
    start = starts(complete, sites, {} if init is None else init)
    needed = [
        at
        for name, at in sites.items()
        if placed.max_norm_ratio or isinstance(configs[name], GradientConfig)
    ]
    first = batches.first() if needed else ()
    units = fit_all_units(needed, first, placed.torch_dtype, placed.max_norm_ratio)
    if placed.max_norm_ratio:
        batches.leave_out({hook: u.limit for hook, u in units.items()}, sites.values())
    learners = _make_learners(complete, sites, placed, batches, group, units, start)
    inits = {name: weights_hash(dictionary) for name, dictionary in start.items()}
    described = out is not None or group.world_size > 1
    return FitRun(
        config=placed,
        group=group,
        learners=learners,
        description=_describe(configs, sites, fit_config, batches, inits) if described else {},
        folder=None if out is None else Path(out),
        kinds=configs,
        sites=sites,
        batches=batches,
        units=units,
        inits=inits,
        origin=activations.provenance,
        single=single,
    )


def _chosen(
    configs: Mapping[str, DictionaryConfig],
    activations: Activations,
    given: Sites | Mapping[str, Sites] | None,
) -> dict[str, Sites]:
    """The sites of each dictionary: as given for all or for each, or else chosen by its kind."""
    each = given if isinstance(given, Mapping) else dict.fromkeys(configs, given)
    if isinstance(given, Mapping) and list(configs) == [ALONE] and given.keys() - configs:
        raise InputError(
            f"sites are given by name ({', '.join(map(repr, given))}), but a single config has "
            "none: pass one Sites"
        )
    for name in each:
        if name not in configs:
            raise InputError(f"sites are given for {name!r}, which no config has; "
                             f"{nearest(name, configs)}")  # fmt: skip
    chosen = {}
    for name, config in configs.items():
        wanted = each.get(name)
        if wanted is None:
            chosen[name] = config.among(activations.sites)
            continue
        if not isinstance(wanted, Sites):
            raise InputError(
                f"required Sites for {name!r} (hook_sites, mlp_sites), got {wanted!r:.80}"
            )
        activations.require(wanted)
        chosen[name] = config.sites(wanted)
    return chosen


def _make_learners(
    configs: Mapping[str, DictionaryConfig],
    sites: Mapping[str, Sites],
    fit_config: FitConfig,
    batches: RunBatches,
    group: ProcessGroup,
    units: Mapping[str, Units],
    start: Mapping[str, TrainableDictionary],
) -> dict[str, Learner]:
    learners: dict[str, Learner] = {}
    for name, config in configs.items():
        at = sites[name]
        if isinstance(config, ClosedFormConfig):
            learners[name] = config.learner(at, seed=fit_config.seed)
            if fit_config.dtype == "float64":  # kinds are made in float32
                learners[name].dictionary.double()
            continue
        assert isinstance(config, GradientConfig)
        learners[name] = GradientLearner(
            config,
            at,
            fit_config,
            start.get(name) or Standardization.at(at, units),
            partial(batches.at, at),
            group,
        )
    return learners


def _describe(
    configs: Mapping[str, DictionaryConfig],
    sites: Mapping[str, Sites],
    fit_config: FitConfig,
    batches: RunBatches,
    inits: Mapping[str, str],
) -> dict[str, Any]:
    """The settings that determine the result of a run, as JSON; a checkpoint requires the same.

    Without the number of processes and their division, which only affect rounding.
    """
    settings = fit_config.to_dict() | {"device": str(fit_config.torch_device)}
    del settings["shard_features"]
    if settings["max_norm_ratio"] is None:  # a setting that earlier versions did not have
        del settings["max_norm_ratio"]
    return {
        "fit_config": settings,
        "dictionaries": {
            name: {"kind": c.kind, "sites": sites[name].to_dict(), "config": c.to_dict()}
            | ({"init": inits[name]} if name in inits else {})
            for name, c in configs.items()
        },
        "activations": batches.describe(),
    }
