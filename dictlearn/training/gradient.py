"""The one learner of every kind that learns by gradient descent."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig, Resampling
from dictlearn.core.learning import FitPass, Learner, TrainableDictionary
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.selection import Searching, require_fast_int8
from dictlearn.distributed.dictionary import DistributedDictionary
from dictlearn.distributed.process_group import SINGLE, ProcessGroup
from dictlearn.distributed.sharding import (
    clip_,
    divide_,
    feature_axes_of,
    feature_group_of,
    joined,
    part,
    whole,
)
from dictlearn.training.config import FitConfig
from dictlearn.training.resampling import rows_to_reseed
from dictlearn.training.standardize import Standardization

BatchAt = Callable[[int], Batch]
"""The batch of a step, raw and on the learner's device: pure, so it may be asked for again."""


_RECALL_ROWS = 32
"""Rows of each batch on which the recall of an inexact search is measured."""


class GradientLearner(Learner):
    """Adam on a kind's objective, with schedules, constraints and resampling of dead features."""

    dictionary: TrainableDictionary

    def __init__(
        self,
        config: GradientConfig,
        sites: Sites,
        fit_config: FitConfig,
        start: Standardization | TrainableDictionary,
        batch_at: BatchAt,
        group: ProcessGroup = SINGLE,
    ) -> None:
        self.shares_batch = not fit_config.shard_features
        self.group, features = (SINGLE, group) if fit_config.shard_features else (group, SINGLE)
        self._build = partial(config.build, sites, seed=fit_config.seed)
        dictionary = self._build()
        assert isinstance(dictionary, TrainableDictionary)
        if fit_config.int8_search:
            require_fast_int8(torch.device(fit_config.device))
            _require_searching(config, dictionary).search_inexactly_()
        divide_(dictionary, features)
        if fit_config.dtype == "float64":  # kinds are made in float32
            dictionary.double()
        self.dictionary = dictionary.to(fit_config.device)
        self._config = fit_config
        self._objective = config.objective()
        self._resampling = config.resampling()
        self._batch_at = batch_at
        self._peak = fit_config.learning_rate or config.default_learning_rate
        self._step = 0
        self._idle = torch.zeros(dictionary.n_features, dtype=torch.long, device=fit_config.device)
        if isinstance(start, Standardization):
            start.apply_(self.dictionary)
            self.dictionary.initialize_(*self.dictionary.standardized(batch_at(0)))
        else:
            self._load_dictionary(start.state_dict())
        self.dictionary.project_()
        self._optimizer = torch.optim.Adam(
            [
                {"params": [parameter], "rate": self.dictionary.rates.get(name, 1.0)}
                for name, parameter in self.dictionary.named_parameters()
            ],
            lr=self._peak,
            betas=fit_config.adam_betas,
            fused=True,
        )

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step of Adam on `batch`; losses, L0, FVU and the dead fraction of it.

        Where processes divide a batch between them, all of them take the step of the whole batch.
        """
        config = self._config
        self._share_batch(self.group)
        cuda = torch.device(config.device).type == "cuda"
        mixed = cuda and config.mixed_precision and config.dtype == "float32"
        with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=mixed):
            fit_pass = self.dictionary.fit_pass(
                batch,
                dead=self._idle >= config.dead_after,
                sparsity_scale=config.sparsity_scale(self._step),
            )
            losses = self._objective(fit_pass)
        self._descend(torch.stack(list(losses.values())).sum())
        with torch.no_grad():
            self.dictionary.observe_(fit_pass)
            fired = self.group.all_reduce(fit_pass.firing_counts())
            self._idle = torch.where(fired > 0, 0, self._idle + 1)
            log = self._log(fit_pass, losses, fired)
            self._step += 1
            self._share_batch(SINGLE)  # what follows sees whole batches
            if self._resampling is not None and self._resampling.due(self._step):
                self._apply(self._resampling)
        return log

    def _share_batch(self, group: ProcessGroup) -> None:
        if isinstance(self.dictionary, DistributedDictionary):
            self.dictionary.batch_group = group

    def finish(self) -> FeatureDictionary:
        """The dictionary, in evaluation mode, without gradients, and searching exactly."""
        if self._config.int8_search:
            assert isinstance(self.dictionary, Searching)
            self.dictionary.search_exactly_()
        self._optimizer.zero_grad()
        return joined(self.dictionary, self._build).eval()

    def state(self) -> dict[str, Tensor]:
        """Parameters, buffers, Adam's moments, the step, steps since each feature was active."""
        state = {f"dictionary/{name}": t for name, t in self.dictionary.state_dict().items()}
        state |= {f"adam/{name}": moment for name, moment in self._moments()}
        state |= {"idle": self._idle, "step": torch.tensor(self._step)}
        return {
            key: whole(t, self._axis(key), feature_group_of(self.dictionary))
            for key, t in state.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned, to the same bits."""
        prefix = "dictionary/"
        self._load_dictionary(
            {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
        )
        features = feature_group_of(self.dictionary)
        state = {key: part(t, self._axis(key), features) for key, t in state.items()}
        for name, parameter in self.dictionary.named_parameters():
            prefix = f"adam/{name}/"
            if prefix + "step" in state:  # absent before the first step
                self._optimizer.state[parameter] = {
                    "step": state[prefix + "step"].to(parameter.device),
                    # In the parameter's own order in memory, which files do not keep.
                    **{
                        moment: torch.empty_like(parameter).copy_(state[prefix + moment])
                        for moment in ("exp_avg", "exp_avg_sq")
                    },
                }
        self._idle = state["idle"].to(self._config.device)
        self._step = int(state["step"])

    def _load_dictionary(self, state: Mapping[str, Tensor]) -> None:
        axes, features = feature_axes_of(self.dictionary), feature_group_of(self.dictionary)
        self.dictionary.load_state_dict(
            {name: part(t, axes.get(name), features) for name, t in state.items()}
        )

    def _descend(self, loss: Tensor) -> None:
        for group in self._optimizer.param_groups:
            scale = self._config.learning_rate_scale(self._step)
            group["lr"] = self._peak * group["rate"] * scale
        self._optimizer.zero_grad()
        loss.backward()
        self._average_gradients_()
        self.dictionary.project_gradient_()
        if self._config.max_gradient_norm is not None:
            clip_(self.dictionary, self._config.max_gradient_norm)
        self._optimizer.step()
        self.dictionary.project_()

    def _average_gradients_(self) -> None:
        """Every rank's gradient is of the mean over its own rows, and they have equally many."""
        if self.group.world_size > 1:
            for parameter in self.dictionary.parameters():
                if parameter.grad is None:  # all ranks have to send as much
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [p.grad for p in self.dictionary.parameters() if p.grad is not None]
            for gradient, mean in zip(
                gradients, self.group.all_reduce_means(gradients), strict=True
            ):
                gradient.copy_(mean)

    def _log(
        self, fit_pass: FitPass, losses: dict[str, Tensor], fired: Int[Tensor, " feature"]
    ) -> dict[str, Tensor]:
        t, n = fit_pass.t, len(fit_pass.t)
        missed = fit_pass.residual.detach()
        own = [t.mean(dim=0), t.norm().square() / n, missed.norm().square() / n]
        centre, power, error, *terms = self.group.all_reduce_means([*own, *losses.values()])
        log = {"loss": torch.stack(terms).sum().detach()}
        log |= {f"loss/{n}": term.detach() for n, term in zip(losses, terms, strict=True)}
        features = feature_group_of(self.dictionary)
        log["l0"] = features.all_reduce(fired.sum()) / (n * self.group.world_size)
        log["fvu"] = error / (power - centre.square().sum())
        log["dead"] = features.all_reduce_mean(
            (self._idle >= self._config.dead_after).float().mean()
        )
        if self._config.int8_search:
            assert isinstance(self.dictionary, Searching)
            log["recall"] = self.dictionary.search_recall(fit_pass.z[:_RECALL_ROWS])
        return log

    def _apply(self, resampling: Resampling) -> None:
        """Reseed dead features, and forget Adam's moments at every entry that changed."""
        dead: Int[Tensor, " m"] = (self._idle >= resampling.window).nonzero().squeeze(1)
        own, n_dead = feature_group_of(self.dictionary).slice_of(len(dead))
        if n_dead == 0:
            return
        # Drawn from seed and step alone, so that a checkpoint needs no generator's state.
        generator = torch.Generator().manual_seed(self._config.seed * 1_000_003 + self._step)
        z, residual = rows_to_reseed(
            self.dictionary, resampling, self._recent_batches(), n_dead, generator
        )
        self.group.broadcast_((z, residual))  # equal but for rounding, where devices differ
        before = [p.detach().clone() for p in self.dictionary.parameters()]
        self.dictionary.reseed_(dead, z[own], residual[own])
        # Compared before `project_`, which moves the other rows by a rounding error.
        for old, parameter in zip(before, self.dictionary.parameters(), strict=True):
            changed = parameter != old
            for moment in ("exp_avg", "exp_avg_sq"):
                self._optimizer.state[parameter][moment][changed] = 0.0
        self.dictionary.project_()
        self._idle[dead] = 0

    def _recent_batches(self) -> Iterator[Batch]:
        """The batches already seen, latest first."""
        return (self._batch_at(step) for step in range(self._step - 1, -1, -1))

    def _axis(self, key: str) -> int | None:
        """The feature axis of a tensor of `state`, if it has one."""
        if key == "idle":
            return 0
        _, *names = key.split("/")
        no_entries = not names or names[-1] == "step"
        return None if no_entries else feature_axes_of(self.dictionary).get(names[0])

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.dictionary.named_parameters():
            for key, moment in self._optimizer.state[parameter].items():
                yield f"{name}/{key}", moment


def _require_searching(config: GradientConfig, dictionary: TrainableDictionary) -> Searching:
    if not isinstance(dictionary, Searching) or dictionary.traits.max_active is None:
        raise ConfigError(
            f"int8_search looks for a fixed number of active features per row, and {config.kind!r} "
            "has none; leave it off, or train that kind in a run of its own"
        )
    return dictionary
