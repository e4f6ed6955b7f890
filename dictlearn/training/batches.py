"""The batches of one run: whatever activations were given, checked and placed on its device."""

import hashlib
import math
from collections.abc import Iterator
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Activations, Batch, Rows, first_bad_row
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.sites import Sites
from dictlearn.distributed.process_group import SINGLE, ProcessGroup
from dictlearn.training.config import FitConfig


def as_activations(given: Activations | Tensor | tuple[Tensor, Tensor]) -> Activations:
    """The activations given to `fit`, whether a store, a stream, rows `x`, or a pair `(x, y)`.

    Raises:
        InputError: it is none of these.
        NonFiniteError: a tensor holds NaN or infinity; the row is named.
    """
    match given:
        case Activations():
            return given
        case Tensor():
            return TensorActivations(given)
        case (Tensor() as x, Tensor() as y):
            return TensorActivations(x, y)
    if hasattr(given, "__array__"):
        return TensorActivations(torch.as_tensor(given))
    raise InputError(
        f"required activations as a store, a stream, a tensor x or a pair (x, y), got "
        f"{type(given).__name__}"
    )


class RunBatches:
    """Batches of one run by step, on its device, checked once however many learners read them."""

    def __init__(self, activations: Activations, fit_config: FitConfig) -> None:
        self._activations = activations
        self._config = fit_config
        self._one_at_a_time = Lock()  # a thread may read ahead while a learner looks back

    def rows(self, step: int, group: ProcessGroup = SINGLE) -> Rows:
        """The rows of a step at every hook: all of them, or those that belong to one rank.

        Raises:
            NonFiniteError: one holds NaN or infinity; its origin is named.
        """
        config = self._config
        place = (config.seed, step, config.batch_size)
        with self._one_at_a_time:
            if group.world_size == 1:
                rows = self._activations.rows(*place)
            else:
                rows = self._activations.rows_of(group.rank, group.world_size, *place)
        for hook, x in rows.at.items():
            bad = first_bad_row(x)
            if bad is not None:
                where = self._activations.locate(*place, group.rank + bad * group.world_size)
                raise NonFiniteError(
                    f"NaN or infinity in the activations at {hook!r}, {where}; training stopped "
                    f"at step {step + 1}. Harvest again, or drop that row"
                )
        return rows.to(torch.device(config.device), config.torch_dtype)

    def at(self, sites: Sites, step: int) -> Batch:
        """The rows of a step at the sites of one dictionary."""
        return self.rows(step).batch(sites)

    def describe(self) -> dict[str, Any]:
        """A description of these batches: number of rows, origin, and a hash of the first batch."""
        digest = hashlib.sha256()
        for hook, x in sorted(self.rows(0).at.items()):
            digest.update(hook.encode() + x.cpu().contiguous().numpy().tobytes())
        return {
            "n_rows": self._activations.n_rows,
            "first_batch": digest.hexdigest(),
            "provenance": self._activations.provenance.to_compare() | {"versions": None},
        }

    def first(self) -> Iterator[Rows]:
        """The batches on which mean and scale are fitted."""
        n = math.ceil(self._config.standardize_rows / self._config.batch_size)
        return (self.rows(step) for step in range(n))
