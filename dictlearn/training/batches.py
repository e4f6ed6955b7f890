"""The batches of one run: whatever activations were given, checked and placed on its device."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Activations, Batch, Rows, first_bad_row
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.massive import beyond
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


_SPARES = 1024
"""Rows that take the places of those left out."""


class RunBatches:
    """Batches of one run by step, on its device, checked once however many learners read them."""

    def __init__(
        self, activations: Activations, fit_config: FitConfig, group: ProcessGroup = SINGLE
    ) -> None:
        self._activations = activations.divided(group)
        self.reads_together = self._activations is not activations
        """Whether reading is a collective operation of the group."""
        self._config = fit_config
        self._one_at_a_time = Lock()  # a thread may read ahead while a learner looks back
        self._limits: Mapping[str, float] = {}
        self._spares: dict[Sites, Batch] = {}

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
        return rows.to(config.torch_device, config.torch_dtype)

    def at(self, sites: Sites, step: int) -> Batch:
        """The rows of a step at the sites of one dictionary."""
        return self.batch(self.rows(step), sites, step)

    def batch(self, rows: Rows, sites: Sites, step: int, group: ProcessGroup = SINGLE) -> Batch:
        """The rows that a dictionary at `sites` learns from, of those of a step (or of its rank).

        Rows that are left out are replaced by spare ones, chosen by their number in the whole
        batch, so that processes that divide a batch learn from the same rows as one.
        """
        batch = rows.batch(sites)
        if not self._limits:
            return batch
        spare, out = self._spares[sites], self._left_out(rows, sites).unsqueeze(1)
        numbers = group.rank + group.world_size * torch.arange(len(rows), device=out.device)
        numbers = (numbers + step * self._config.batch_size) % len(spare.x)
        x = torch.where(out, spare.x[numbers], batch.x)
        same = batch.y is batch.x
        return Batch(x, x if same else torch.where(out, spare.y[numbers], batch.y))

    def leave_out(self, limits: Mapping[str, float], sites: Iterable[Sites]) -> None:
        """Leave rows out whose norm exceeds the limit of a hook, from now on.

        Raises:
            InputError: among the first rows there is none that stays.
        """
        self._limits = limits
        for at in set(sites):
            found: list[Rows] = []
            for rows in self.first():
                stay = ~self._left_out(rows, at)
                found.append(Rows({hook: rows.at[hook][stay] for hook in at.hooks}))
                if sum(map(len, found)) >= _SPARES:
                    break
            spare = Rows({hook: torch.cat([r.at[hook] for r in found])[:_SPARES]
                          for hook in at.hooks})  # fmt: skip
            if not len(spare):
                raise InputError(f"FitConfig.max_norm_ratio leaves no row at {at}: raise it")
            self._spares[at] = spare.batch(at)

    def _left_out(self, rows: Rows, sites: Sites) -> Bool[Tensor, " n"]:
        """The rows beyond the limit at any hook of `sites`."""
        out = [beyond(rows.at[hook], self._limits[hook]) for hook in sites.hooks]
        return torch.stack(out).any(dim=0)

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
