"""Errors on planted data after equal numbers of steps, over seeds."""

from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.peers.measure import Spread, digits
from benchmarks.peers.ours import OURS
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Kind, Peer, Plan
from benchmarks.peers.registry import in_short
from dictlearn.core.batches import Batch
from dictlearn.metrics.reconstruction import fraction_variance_unexplained

KINDS = (Kind.TOPK_SAE, Kind.CODEBOOK, Kind.ONE_CODE)


@dataclass(frozen=True)
class Planted:
    """Rows that are sums of few out of many directions, with coefficients from 0.5 to 1.5.

    Every row has mean 0 and variance 1 over its dimensions, so that a library that normalises
    rows sees what the others see.
    """

    width: int
    n_directions: int
    active: int

    def rows(self, step: int, n: int) -> Tensor:
        """The `n` rows of a step: the same ones for everybody."""
        fixed = torch.Generator().manual_seed(0)
        directions = torch.randn(self.n_directions, self.width, generator=fixed)
        directions = normalize(directions - directions.mean(dim=1, keepdim=True), dim=1)
        generator = torch.Generator().manual_seed(step + 1)
        chosen = torch.rand(n, self.n_directions, generator=generator).topk(self.active).indices
        coefficients = 0.5 + torch.rand(n, self.active, generator=generator)
        rows = torch.zeros(n, self.n_directions).scatter_(1, chosen, coefficients) @ directions
        return rows / rows.std(dim=1, correction=0, keepdim=True)


@dataclass(frozen=True)
class Lesson:
    """The training data of all contenders, created once."""

    batches: list[Batch]
    held_out: Tensor

    @classmethod
    def of(cls, data: Planted, steps: int, batch_size: int) -> "Lesson":
        """The batches of `steps` steps, and rows that none of them holds."""
        rows = [data.rows(step, batch_size) for step in range(steps)]
        return cls([Batch(x, x) for x in rows], data.rows(steps, 8192))


def final_error(peer: Peer, kind: Kind, plan: Plan, lesson: Lesson) -> float:
    """The fraction of variance unexplained on held-out rows, after a step on every batch."""
    trainee = peer.makers[kind](plan, lesson.batches[0])
    for batch in lesson.batches:
        trainee.update(batch)
    x = lesson.held_out
    return float(fraction_variance_unexplained(x, trainee.estimate(x)))


def _losses(run: Run) -> list[Table]:
    size = run.size
    data = Planted(size.planted_width, size.planted_directions, size.planted_active)
    run.done("making rows")
    lesson = Lesson.of(data, size.planted_steps, size.planted_batch)
    tables = []
    for kind in KINDS:
        k = 1 if kind is Kind.ONE_CODE else size.planted_active
        plan = Plan(data.width, size.planted_features, k, steps=size.planted_steps)
        table = Table(
            f"{kind.value}: {plan.n_features:,} of width {plan.width}, k = {k}, after "
            f"{plan.steps:,} steps of {size.planted_batch:,} rows",
            ("library", "mean FVU", "over seeds", "learning rate", "difference from dictlearn"),
        )
        ours: Spread | None = None
        for peer in run.contenders.offering(kind):
            try:
                rate, errors = _best(run, peer, kind, plan, lesson)
            except Exception as error:  # the others go on
                table.add(peer.name, "—", "—", "—", "—")
                table.notes.append(f"{peer.name} failed: {in_short(error)}")
                continue
            spread = Spread.of(errors)
            ours = spread if peer is OURS else ours
            table.add(
                peer.name,
                digits(mean(errors)),
                f"{digits(spread.low)} to {digits(spread.high)}",
                f"{rate:g}",
                _difference(spread, ours),
            )
        tables.append(table)
    return tables


def _best(
    run: Run, peer: Peer, kind: Kind, plan: Plan, lesson: Lesson
) -> tuple[float, list[float]]:
    """The learning rate that the first seed prefers, and with it the error of every seed."""
    first: dict[float, float] = {}
    for rate in run.size.planted_rates:
        run.done(f"{kind.value}, {peer.name}, learning rate {rate:g}")
        trial = replace(plan, learning_rate=rate)
        first[rate] = final_error(peer, kind, trial, lesson)
    best = min(first, key=first.__getitem__)
    errors = [first[best]]
    for seed in range(1, run.size.seeds):
        run.done(f"{kind.value}, {peer.name}, seed {seed}")
        trial = replace(plan, learning_rate=best, seed=seed)
        errors.append(final_error(peer, kind, trial, lesson))
    return best, errors


def _difference(spread: Spread, ours: Spread | None) -> str:
    if ours is None or spread is ours:
        return "—"
    if spread.low <= ours.high and ours.low <= spread.high:
        return "within the seeds' spread"
    return "theirs is lower" if spread.high < ours.low else "ours is lower"


LOSSES = Part(
    "What equal steps are worth",
    "Every library learns from the same rows, in the same order, for the same number of steps: "
    "sums of a few out of many planted directions. Learning rates rise over the first 5 % of "
    "steps and fall to 0 over the last 20 % (sparsify has schedules of its own, and "
    "vector-quantize-pytorch no learning rate). Each library gets the best of the same learning "
    "rates, chosen on the first seed; everything else is its default. FVU is the fraction of "
    "variance unexplained on held-out rows, by one function for all.",
    _losses,
)
