"""The one learner of every kind that learns by gradient descent on activations."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dictlearn.core.batches import Batch
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import Learner, TrainableDictionary
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.selection import Searching, search_with_int8_
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
from dictlearn.training.adam import Adam
from dictlearn.training.config import FitConfig
from dictlearn.training.moments import load_moments_, moments
from dictlearn.training.standardize import Standardization
from dictlearn.training.upkeep import Upkeep

BatchAt = Callable[[int], Batch]
"""The batch of a step, raw and on the learner's device: pure, so it may be asked for again."""


_RECALL_ROWS = 32
"""Rows of a batch on which the recall of an inexact search is measured."""


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
            searching = _require_searching(config, dictionary)
            rows = fit_config.batch_size // self.group.world_size
            search_with_int8_(searching, fit_config.torch_device, rows)
        divide_(dictionary, features)
        if fit_config.dtype == "float64":  # kinds are made in float32
            dictionary.double()
        self.dictionary = dictionary.to(fit_config.torch_device)
        self._config = fit_config
        self._batch_at = batch_at
        self.upkeep = Upkeep(self.dictionary, config, fit_config, self.group)
        self._peak = fit_config.peak_learning_rate(config)
        self._step = 0
        if isinstance(start, Standardization):
            start.apply_(self.dictionary)
            self.dictionary.initialize_(*self.dictionary.standardized(batch_at(0)))
        else:
            self._load_dictionary(start.state_dict())
        self.dictionary.project_()
        self._optimizer = Adam(
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
        cuda = config.torch_device.type == "cuda"
        mixed = cuda and config.mixed_precision and config.dtype == "float32"
        with self.upkeep.sharing_the_batch():
            with torch.autocast("cuda" if cuda else "cpu", torch.bfloat16, enabled=mixed):
                fit_pass = self.upkeep.fit_pass(batch, self._step)
                losses = self.upkeep.losses(fit_pass)
            log = self.upkeep.observe_(fit_pass, losses)
            loss, looked_for = torch.stack(list(losses.values())).sum(), fit_pass.z[:_RECALL_ROWS]
            del fit_pass, losses  # all coefficients, for which Adam has better use
            self._descend(loss)
        if config.int8_search and config.is_logged(self._step + 1):  # it costs a search
            assert isinstance(self.dictionary, Searching)
            log["recall"] = self.dictionary.search_recall(looked_for)
        self._step += 1
        self.upkeep.resample_(self._step, self._optimizer, self._recent_batches())
        return log

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
        state |= dict(moments(self._optimizer, self.dictionary.named_parameters()))
        state |= {"idle": self.upkeep.idle, "step": torch.tensor(self._step)}
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
        load_moments_(self._optimizer, self.dictionary.named_parameters(), state)
        self.upkeep.idle = state["idle"].to(self._config.torch_device)
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
        average_gradients_(self.dictionary.parameters(), self.group)
        self.dictionary.project_gradient_()
        if self._config.max_gradient_norm is not None:
            clip_(self.dictionary, self._config.max_gradient_norm)
        self._optimizer.step()
        self.dictionary.project_()

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


def average_gradients_(parameters: Iterable[nn.Parameter], group: ProcessGroup) -> None:
    """Average gradients over processes, each of which has that of the mean over equally many."""
    if group.world_size == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:  # all ranks have to send as much
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    for gradient, mean in zip(gradients, group.all_reduce_means(gradients), strict=True):
        gradient.copy_(mean)


def _require_searching(config: GradientConfig, dictionary: TrainableDictionary) -> Searching:
    if not isinstance(dictionary, Searching) or dictionary.traits.max_active is None:
        raise ConfigError(
            f"int8_search looks for a fixed number of active features per row, and {config.kind!r} "
            "has none; leave it off, or train that kind in a run of its own"
        )
    return dictionary
