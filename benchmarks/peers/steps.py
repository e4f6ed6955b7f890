"""One training step of every kind, and how it grows with features, width and k."""

from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks.peers.measure import Timing, Work, digits, in_turn
from benchmarks.peers.ours import OURS
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Kind, Plan
from benchmarks.peers.registry import in_short
from dictlearn.core.batches import Batch

MAIN_KINDS = (Kind.TOPK_SAE, Kind.RELU_SAE, Kind.CODEBOOK)
"""The kinds measured with the most rounds."""
TRANSCODERS = (Kind.TOPK_TRANSCODER, Kind.RELU_TRANSCODER, Kind.JUMPRELU_TRANSCODER)
STARTING_AT_L0 = (
    Kind.RELU_SAE, Kind.JUMPRELU_SAE, Kind.GATED_SAE, Kind.RELU_TRANSCODER, Kind.JUMPRELU_TRANSCODER
)  # fmt: skip
"""The kinds that do not fix their L0, each library's with a bias that starts at the same."""


@dataclass(frozen=True)
class Turns:
    """Results of one benchmark: times, and reasons for missing ones."""

    timings: dict[str, Timing]
    failures: dict[str, str]

    def notes(self, where: str = "") -> list[str]:
        """A line on each contender that failed."""
        return [f"{name} failed{where}: {why}" for name, why in self.failures.items()]


def rows(n: int, width: int, seed: int) -> Tensor:
    """Gaussian rows: what they hold does not change the work of a step."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def time_steps(
    run: Run, kind: Kind, plan: Plan, batch_size: int, rounds: int, *, options: bool = True
) -> Turns:
    """The times of everyone's step, beside those of a dense product of the encoder's shape."""
    x = rows(batch_size, plan.width, seed=0)
    batch = Batch(x, rows(batch_size, plan.width, seed=1) if kind in TRANSCODERS else x)
    W_enc = rows(plan.width, plan.n_features, seed=2)
    steps: dict[str, Work] = {}
    failures: dict[str, str] = {}
    for peer in run.contenders.offering(kind, options=options):
        try:
            steps[peer.name] = partial(peer.makers[kind](plan, batch).update, batch)
            run.done(f"{kind.value}, {peer.name}: first step")
            steps[peer.name]()
        except Exception as error:  # a peer that fails is reported, and the others go on
            failures[peer.name] = in_short(error)
            steps.pop(peer.name, None)
    timings = in_turn(
        steps,
        rounds=rounds,
        unit=lambda: x @ W_enc,
        warm_up=False,
        done=lambda label: run.done(f"{kind.value}, {plan.n_features:,}, {label}"),
    )
    return Turns(timings, failures)


def _steps(run: Run) -> list[Table]:
    size, tables = run.size, []
    for kind in Kind:
        n_features, k = size.features_of(kind)
        plan = Plan(size.width, n_features, k)
        rounds = size.rounds if kind in MAIN_KINDS else size.rounds_of_other_kinds
        turns = time_steps(run, kind, plan, size.batch, rounds)
        tables.append(_step_table(kind, plan, size.batch, turns))
    return tables


def _step_table(kind: Kind, plan: Plan, batch_size: int, turns: Turns) -> Table:
    about = f"about {plan.k} active" if kind in STARTING_AT_L0 else f"k = {plan.k}"
    active = "1 chosen" if kind is Kind.ONE_CODE else about
    table = Table(
        f"{kind.value}: {plan.n_features:,} of width {plan.width}, {active}, batch {batch_size:,}",
        ("library", "products", "ms", "time / dictlearn's"),
    )
    ours = turns.timings.get(OURS.name)
    for name, timing in turns.timings.items():
        ratio = "1" if timing is ours else str(timing.times(ours)) if ours else "—"
        table.add(name, str(timing.units()), digits(1000 * median(timing.seconds)), ratio)
    for name in turns.failures:
        table.add(name, "—", "—", "—")
    table.notes += turns.notes()
    return table


def _growth(run: Run) -> list[Table]:
    size = run.size
    base = Plan(size.width, size.n_features, size.k)
    axes: dict[str, dict[int, Plan]] = {
        "features": {n: replace(base, n_features=n) for n in size.growth_features},
        "width": {d: replace(base, width=d) for d in size.growth_widths},
        "k": {k: replace(base, k=k) for k in size.growth_k},
    }
    names = [p.name for p in run.contenders.offering(Kind.TOPK_SAE, options=False)]
    tables = []
    for axis, plans in axes.items():
        table = Table(
            f"By {axis} (otherwise {base.n_features:,} features, width {base.width}, "
            f"k = {base.k}), batch {size.growth_batch:,}",
            (axis, *names, "product, ms"),
        )
        for value, plan in plans.items():
            turns = time_steps(
                run, Kind.TOPK_SAE, plan, size.growth_batch, size.growth_rounds, options=False
            )
            units = [turns.timings[n].units() if n in turns.timings else "—" for n in names]
            products = [u for t in turns.timings.values() for u in t.unit_seconds]
            table.add(f"{value:,}", *map(str, units), digits(1000 * median(products)))
            table.notes += turns.notes(f" at {value:,}")
        table.notes[:] = dict.fromkeys(table.notes)
        tables.append(table)
    return tables


STEPS = Part(
    "One training step",
    "A full step as each library takes it (forward, every term of its own loss, backward, "
    "clipping, constraints, optimizer, bookkeeping), in units of one dense product `x @ W` of the "
    "encoder's shape. Product and contenders have their turns within every round; shown are "
    "medians with the range over rounds. The learning rate is 1e-9, so that a dictionary stays as "
    "it was made and every step costs the same: what the steps are worth is the subject of the "
    "section on equal losses. No feature is dead, so no library computes its loss for dead ones.",
    _steps,
)
GROWTH = Part(
    "How a step grows",
    "One step of a top-k SAE, in units of the dense product of its own size, timed as above.",
    _growth,
)
