"""Dictionaries too wide for one device: each process holds as many features as the others."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.ranks import Ranks


def divide_(dictionary: TrainableDictionary, shards: Ranks) -> None:
    """Leave of `dictionary` the features that belong to this process: one of equal runs of them.

    Raises:
        ConfigError: its kind cannot be divided, or not into so many parts.
    """
    if shards.size == 1:
        return
    config = dictionary.config
    if not (isinstance(config, GradientConfig) and config.shards_features):
        raise ConfigError(
            "FitConfig.shard_features needs a kind that says how its features are divided between "
            f"processes (shards_features), got {type(config).__name__} with "
            f"{dictionary.n_features} features"
        )
    if dictionary.n_features % shards.size:
        raise ConfigError(
            f"FitConfig.shard_features needs a number of features that the number of processes "
            f"({shards.size}) divides, got {type(config).__name__} with {dictionary.n_features} "
            "features"
        )
    for name, axis in dictionary.feature_axes.items():
        parameter = dictionary.get_parameter(name)
        parameter.data = part(parameter.data, axis, shards)
    dictionary.n_features //= shards.size
    dictionary.shards = shards


def part(t: Tensor, axis: int | None, shards: Ranks) -> Tensor:
    """What of `t` belongs to this process; all, where it has no axis of features."""
    if axis is None or shards.size == 1:
        return t
    return t.chunk(shards.size, dim=axis)[shards.rank].clone()


def whole(t: Tensor, axis: int | None, shards: Ranks) -> Tensor:
    """`t` of all features on the first rank, which writes it; elsewhere, to save room, as it is."""
    if axis is None or shards.size == 1:
        return t
    joined = shards.joined(t, axis)
    return joined if shards.is_first else t


def joined(
    dictionary: TrainableDictionary, build: Callable[[], FeatureDictionary]
) -> FeatureDictionary:
    """The dictionary of all features, made by `build` on the CPU where there are several parts."""
    shards, axes = dictionary.shards, dictionary.feature_axes
    if shards.size == 1:
        return dictionary
    complete = build().to(dictionary.x_mean.dtype)
    complete.load_state_dict(
        {
            name: shards.joined(t, axes[name]) if name in axes else t
            for name, t in dictionary.state_dict().items()
        }
    )
    return complete


def clip_(dictionary: TrainableDictionary, limit: float) -> None:
    """Shorten the gradient, that of all features together, to norm `limit` if it is longer."""
    shards, axes = dictionary.shards, dictionary.feature_axes
    if shards.size == 1:
        clip_grad_norm_(dictionary.parameters(), limit)
        return
    gradients = {n: p.grad for n, p in dictionary.named_parameters() if p.grad is not None}
    own = get_total_norm([g for name, g in gradients.items() if name in axes])
    everyones = get_total_norm([g for name, g in gradients.items() if name not in axes])
    norm = torch.sqrt(shards.sum(own.pow(2)) + everyones.pow(2))
    clip_grads_with_norm_(dictionary.parameters(), limit, norm)
