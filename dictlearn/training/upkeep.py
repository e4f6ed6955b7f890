"""A dictionary in training, apart from its optimizer: passes, counts, statistics, resampling."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.batches import Batch
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import FitPass, TrainableDictionary
from dictlearn.distributed.dictionary import DistributedDictionary
from dictlearn.distributed.process_group import SINGLE, ProcessGroup
from dictlearn.distributed.sharding import feature_group_of
from dictlearn.training.config import RunConfig
from dictlearn.training.moments import MOMENTS
from dictlearn.training.resampling import rows_to_reseed


class Upkeep:
    """Differentiable passes of a dictionary that learns, and what follows a step on them."""

    def __init__(
        self,
        dictionary: TrainableDictionary,
        config: GradientConfig,
        run: RunConfig,
        group: ProcessGroup = SINGLE,
    ) -> None:
        self.dictionary = dictionary
        self._objective, self._resampling = config.objective(), config.resampling()
        self._run, self._group = run, group
        self.idle = torch.zeros(dictionary.n_features, dtype=torch.long, device=run.device)
        """Steps since each feature was active."""

    @property
    def dead(self) -> Bool[Tensor, " feature"]:
        """The features that have not fired for a while."""
        return self.idle >= self._run.dead_after

    @contextmanager
    def sharing_the_batch(self) -> Iterator[None]:
        """A context in which each process has its own part of a batch; else, it has all of it."""
        if not isinstance(self.dictionary, DistributedDictionary):
            yield
            return
        self.dictionary.batch_group = self._group
        try:
            yield
        finally:
            self.dictionary.batch_group = SINGLE

    def fit_pass(self, batch: Batch, step: int) -> FitPass:
        """A differentiable pass over `batch`, as of step `step` of the run."""
        scale = self._run.sparsity_scale(step)
        return self.dictionary.fit_pass(batch, dead=self.dead, sparsity_scale=scale)

    def losses(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The terms of the dictionary's own objective."""
        return self._objective(fit_pass)

    @torch.no_grad()
    def observe_(self, fit_pass: FitPass, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take note of a pass; losses, L0, FVU and the dead fraction, of all processes."""
        self.dictionary.observe_(fit_pass)
        fired = self._group.all_reduce(fit_pass.firing_counts())
        self.idle = torch.where(fired > 0, 0, self.idle + 1)
        return self._log(fit_pass, losses, fired)

    def _log(
        self, fit_pass: FitPass, losses: dict[str, Tensor], fired: Int[Tensor, " feature"]
    ) -> dict[str, Tensor]:
        t, n = fit_pass.t, len(fit_pass.t)
        missed = fit_pass.residual.detach()
        own = [t.mean(dim=0), t.norm().square() / n, missed.norm().square() / n]
        centre, power, error, *terms = self._group.all_reduce_means([*own, *losses.values()])
        log = {"loss": torch.stack(terms).sum().detach()}
        log |= {f"loss/{n}": term.detach() for n, term in zip(losses, terms, strict=True)}
        features = feature_group_of(self.dictionary)
        log["l0"] = features.all_reduce(fired.sum()) / (n * self._group.world_size)
        log["fvu"] = error / (power - centre.square().sum())
        log["dead"] = features.all_reduce_mean(self.dead.float().mean())
        return log

    @torch.no_grad()
    def resample_(
        self, step: int, optimizer: torch.optim.Optimizer, batches: Iterator[Batch]
    ) -> None:
        """Reseed dead features if that is due after `step` steps, on rows of whole `batches`, and
        forget Adam's moments at every entry that changed."""
        if self._resampling is None or not self._resampling.due(step):
            return
        dead: Int[Tensor, " m"] = (self.idle >= self._resampling.window).nonzero().squeeze(1)
        own, n_dead = feature_group_of(self.dictionary).slice_of(len(dead))
        if n_dead == 0:
            return
        # Drawn from seed and step alone, so that a checkpoint needs no generator's state.
        generator = torch.Generator().manual_seed(self._run.seed * 1_000_003 + step)
        z, residual = rows_to_reseed(self.dictionary, self._resampling, batches, n_dead, generator)
        self._group.broadcast_((z, residual))  # equal but for rounding, where devices differ
        before = [p.detach().clone() for p in self.dictionary.parameters()]
        self.dictionary.reseed_(dead, z[own], residual[own])
        # Compared before `project_`, which moves the other rows by a rounding error.
        for old, parameter in zip(before, self.dictionary.parameters(), strict=True):
            changed = parameter != old
            for moment in MOMENTS:
                optimizer.state[parameter][moment][changed] = 0.0
        self.dictionary.project_()
        self.idle[dead] = 0
