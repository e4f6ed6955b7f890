"""Dictionaries that several processes train together."""

from abc import ABC
from collections.abc import Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.learning import TrainableDictionary
from dictlearn.distributed.process_group import SINGLE, ProcessGroup


class DistributedDictionary(TrainableDictionary, ABC):
    """A trainable dictionary whose batches, or whose features, are divided between processes.

    Other kinds can also be trained on divided batches if their loss is a mean over rows.
    """

    batch_group: ProcessGroup = SINGLE
    """Process group that shares the batch. Whatever is not a mean over rows (a ratio of means, a
    selection among all rows, a minimum) is computed over it."""
    feature_group: ProcessGroup = SINGLE
    """Process group that shares the features, of which this process then holds a part. Whatever
    sums over features, or selects among them, is computed over it."""
    feature_axes: Mapping[str, int] = MappingProxyType({})
    """The feature axis of each parameter that has one."""

    def _completed(self, written: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        return self.feature_group.all_reduce_forward(written)
