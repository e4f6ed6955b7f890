"""Dictionaries too wide for one device: each process holds an equal part of the features."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.distributed.dictionary import DistributedDictionary
from dictlearn.distributed.process_group import SINGLE, ProcessGroup


def feature_group_of(dictionary: FeatureDictionary) -> ProcessGroup:
    """The process group that shares the features of `dictionary`."""
    return dictionary.feature_group if isinstance(dictionary, DistributedDictionary) else SINGLE


def feature_axes_of(dictionary: FeatureDictionary) -> Mapping[str, int]:
    """The feature axis of each parameter that has one; empty if unknown."""
    return dictionary.feature_axes if isinstance(dictionary, DistributedDictionary) else {}


def divide_(dictionary: TrainableDictionary, group: ProcessGroup) -> None:
    """Keep of `dictionary` the features of this process: one of equal contiguous groups.

    Raises:
        ConfigError: its kind cannot be divided, or not into so many parts.
    """
    if group.world_size == 1:
        return
    config = dictionary.config
    if (
        not isinstance(dictionary, DistributedDictionary)
        or not isinstance(config, GradientConfig)
        or not config.shards_features
    ):
        raise ConfigError(
            "FitConfig.shard_features needs a kind that says how its features are divided between "
            f"processes (shards_features), got {type(config).__name__} with "
            f"{dictionary.n_features} features"
        )
    if dictionary.n_features % group.world_size:
        raise ConfigError(
            "FitConfig.shard_features needs a number of features that the number of processes "
            f"({group.world_size}) divides, got {type(config).__name__} with "
            f"{dictionary.n_features} features"
        )
    for name, axis in dictionary.feature_axes.items():
        parameter = dictionary.get_parameter(name)
        parameter.data = part(parameter.data, axis, group)
    dictionary.n_features //= group.world_size
    dictionary.feature_group = group


def part(t: Tensor, axis: int | None, group: ProcessGroup) -> Tensor:
    """The part of `t` on this process; all of `t` if it has no feature axis."""
    if axis is None or group.world_size == 1:
        return t
    return t.chunk(group.world_size, dim=axis)[group.rank].clone()


def whole(t: Tensor, axis: int | None, group: ProcessGroup) -> Tensor:
    """`t` of all features on the first rank, which writes it; elsewhere, to save room, as it is."""
    if axis is None or group.world_size == 1:
        return t
    joined = group.all_gather(t, axis)
    return joined if group.is_main else t


def joined(
    dictionary: TrainableDictionary, build: Callable[[], FeatureDictionary]
) -> FeatureDictionary:
    """The dictionary of all features, made by `build` on the CPU where there are several parts."""
    group, axes = feature_group_of(dictionary), feature_axes_of(dictionary)
    if group.world_size == 1:
        return dictionary
    complete = build().to(dictionary.x_mean.dtype)
    complete.load_state_dict(
        {
            name: group.all_gather(t, axes[name]) if name in axes else t
            for name, t in dictionary.state_dict().items()
        }
    )
    return complete


def clip_(dictionary: TrainableDictionary, limit: float) -> None:
    """Clip the gradient of all features together to norm `limit`."""
    group, axes = feature_group_of(dictionary), feature_axes_of(dictionary)
    gradients = {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}
    if group.world_size == 1:
        norm = get_total_norm(gradients.values())
    else:
        own = get_total_norm([g for name, g in gradients.items() if name in axes])
        everyones = get_total_norm([g for name, g in gradients.items() if name not in axes])
        norm = torch.sqrt(group.all_reduce(own.pow(2)) + everyones.pow(2))
    if norm.device.type == "cpu" and norm < limit - 1e-5:
        return  # all would be multiplied by 1; to know that of a GPU would mean to wait for it
    clip_grads_with_norm_(dictionary.parameters(), limit, norm)
