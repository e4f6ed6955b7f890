"""A dictionary that learns in its place in a running model."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.learning import FitPass
from dictlearn.dictionaries.codebook import Codebook
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.training.upkeep import Upkeep


class LearningPlace:
    """Replaces a target by the dictionary's estimate, with gradients to both.

    The dictionary's own objective sees the activations as constants, so its gradient reaches the
    dictionary only. The estimate takes the target's place with `y_hat + (y - y.detach())`, where
    gradients pass straight through, and otherwise depends on the source through the encoder.
    """

    fit_pass: FitPass
    losses: dict[str, Tensor]
    batch: Batch
    """The detached rows of the last pass."""

    def __init__(self, upkeep: Upkeep, config: FinetuneConfig) -> None:
        self.upkeep, self.dictionary = upkeep, upkeep.dictionary
        self._config = config
        given = config.straight_through
        self._straight = self.dictionary.traits.binary if given is None else given
        self._codebook = self.dictionary if isinstance(self.dictionary, Codebook) else None
        if self._codebook is not None:
            self._k = self._codebook.k
        self.active = False
        """Whether the target is replaced at present."""
        self.step = 0

    def replace(
        self,
        x: Float[Tensor, "b pos d_in"],
        y: Float[Tensor, "b pos d_out"],
        positions: Int[Tensor, "b pos"],
    ) -> Float[Tensor, "b pos d_out"]:
        """The estimate; leaves the pass and its losses at `fit_pass` and `losses`."""
        if not self.active:
            return y
        rows_x, rows_y = x.flatten(0, 1), y.flatten(0, 1)
        self.batch = _batch(rows_x.detach(), rows_y.detach(), same=x is y)
        self.fit_pass = self.upkeep.fit_pass(self.batch, self.step)
        self.losses = self.upkeep.losses(self.fit_pass)
        if self._straight:
            carrier = self.dictionary.carrier(rows_y)
            y_hat = self.fit_pass.y_hat + (carrier - carrier.detach())
        elif rows_x.requires_grad:
            live = _batch(rows_x, rows_y.detach(), same=x is y)
            y_hat = self.upkeep.fit_pass(live, self.step).y_hat
        else:
            y_hat = self.fit_pass.y_hat
        return y_hat.to(y).view_as(y)

    def begin_(self, step: int) -> None:
        """Prepare for a step of the run, counted from 0."""
        self.step = step
        if self._codebook is not None:
            self._codebook.choose_(self._config.k_at(step, self._k))

    def end_(self) -> None:
        """Leave the dictionary as it is to be used."""
        if self._codebook is not None:
            self._codebook.choose_(self._k)

    def batches(self, group: ProcessGroup, n_blocks: int) -> Iterator[Batch]:
        """One batch: the rows of the last pass in all processes, in the order of one process's."""

        def gathered(rows: Tensor) -> Tensor:
            if group.world_size == 1:
                return rows
            parts = group.all_gather(rows.contiguous(), 0)
            shape = (group.world_size, n_blocks, len(rows) // n_blocks, rows.shape[1])
            return parts.view(shape).transpose(0, 1).reshape(-1, rows.shape[1])

        x = gathered(self.batch.x)
        yield Batch(x, x if self.batch.y is self.batch.x else gathered(self.batch.y))

    @torch.no_grad()
    def log(self, group: ProcessGroup) -> dict[str, Tensor]:
        """Take note of the last pass: the upkeep's log, and the norms of target and estimate."""
        log = self.upkeep.observe_(self.fit_pass, self.losses)
        norms = [rows.norm(dim=1).mean() for rows in (self.batch.y, self.fit_pass.y_hat)]
        log["target_norm"], log["estimate_norm"] = group.all_reduce_means(norms)
        return log


def _batch(x: Tensor, y: Tensor, *, same: bool) -> Batch:
    return Batch(x, x if same else y)
