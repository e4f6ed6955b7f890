"""Whole runs: from a language model and tokens to a dictionary of equal error."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.peers import ours_runs
from benchmarks.peers.language import Setting, settings, skipped
from benchmarks.peers.measure import digits, seconds
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Plan
from dictlearn.metrics.reconstruction import fraction_variance_unexplained

_COLUMNS = ("run", "steps", "seconds", "FVU", "L0", "SAELens' time / this")


@torch.no_grad()
def quality(encode: Callable, forward: Callable, setting: Setting) -> tuple[float, float]:
    """FVU and L0 on the held-out rows, by the same functions for everyone."""
    x = setting.held_out_rows
    l0 = torch.cat([(encode(rows) != 0).sum(dim=1) for rows in x.split(4096)]).float().mean()
    return float(fraction_variance_unexplained(x, forward(x))), float(l0)


class _Clock:
    """The result of one call, and its time."""

    def __init__(self, work: Callable[[], Any]) -> None:
        def run() -> None:
            self.result = work()

        self.seconds = seconds(run)


class _Comparison:
    """One setting: SAELens for its budget, then ours until the error is as low."""

    def __init__(self, run: Run, setting: Setting) -> None:
        from benchmarks.peers import saelens_runs

        self.run, self.setting, self.theirs = run, setting, saelens_runs
        size = run.size
        self.batch = size.run_batch
        steps = size.train_tokens // size.run_batch
        width = setting.sites.target.d
        self.plan = Plan(
            width, size.run_features, size.k, steps=steps, learning_rate=size.saelens_rate
        )
        self.dataset = saelens_runs.as_dataset(setting.train)
        self.table = Table(
            f"{setting.name}, `{setting.hook}`: one top-k SAE, {size.run_features:,} of width "
            f"{width}, k = {size.k}, batch {self.batch:,}",
            _COLUMNS,
        )

    def one(self) -> Table:
        """The table on one dictionary."""
        self.run.done(f"{self.setting.name}: SAELens, {self.plan.steps} steps")
        clock = _Clock(
            lambda: self.theirs.train_one(self.setting, self.plan, self.batch, self.dataset)
        )
        self.their_seconds = clock.seconds
        sae = clock.result
        self.their_error, l0 = quality(sae.encode, sae, self.setting)
        self._row("SAELens", self.plan.steps, clock.seconds, self.their_error, l0)
        self.our_steps: int | None = None
        for part in self.run.size.run_ladder:
            steps = max(1, round(self.plan.steps * part))
            error = self._ours(steps)
            if error <= self.their_error:
                self.our_steps = steps
                break
        if self.our_steps is None:
            self.table.notes.append("dictlearn did not reach the error of SAELens")
        return self.table

    def _ours(self, steps: int) -> float:
        self.run.done(f"{self.setting.name}: dictlearn, {steps} steps")
        plan = self._our_plan(steps)
        clock = _Clock(lambda: ours_runs.train(self.setting, plan, (plan.k,), self.batch))
        dictionary = clock.result[plan.k]
        error, l0 = quality(dictionary.encode, dictionary, self.setting)
        self._row("dictlearn", steps, clock.seconds, error, l0)
        return error

    def _our_plan(self, steps: int) -> Plan:
        return replace(self.plan, steps=steps, learning_rate=self.run.size.our_rate)

    def _row(self, name: str, steps: int, took: float, error: float, l0: float) -> None:
        ratio = digits(self.their_seconds / took)
        self.table.add(name, f"{steps:,}", digits(took), digits(error), digits(l0), ratio)

    def sweep(self) -> Table:
        """The table on twelve dictionaries, after `one`."""
        size, ks = self.run.size, self.run.size.sweep_k
        n = len(ks)
        table = Table(
            f"{self.setting.name}, `{self.setting.hook}`: {n} top-k SAEs of that size, "
            f"k = {', '.join(map(str, ks))}",
            ("run", "steps", "seconds", f"FVU at k = {size.k}", "time / dictlearn's"),
        )
        one_by_one = n * self.their_seconds
        shared = self._shared_forward(n)
        steps = self.our_steps or self.plan.steps
        self.run.done(f"{self.setting.name}: dictlearn, {n} dictionaries, {steps} steps")
        clock = _Clock(lambda: ours_runs.train(self.setting, self._our_plan(steps), ks, self.batch))
        dictionary = clock.result[size.k]
        error, _ = quality(dictionary.encode, dictionary, self.setting)
        ours = clock.seconds
        theirs = [f"{self.plan.steps:,}", digits(self.their_error)]
        for name, took in (
            ("SAELens, one run after another", one_by_one),
            ("SAELens, MultiSAETrainingRunner", shared),
        ):
            table.add(name, theirs[0], digits(took), theirs[1], digits(took / ours))
        table.add("dictlearn, one `fit`", f"{steps:,}", digits(ours), digits(error), "1")
        table.notes += [
            f"one run after another: {n} times the run of the table above",
            f"MultiSAETrainingRunner: from {size.shared_k} dictionaries for a quarter of the "
            "steps, taken to be linear in steps and, beyond the shared reading of activations, in "
            "dictionaries",
        ]
        return table

    def _shared_forward(self, n: int) -> float:
        """The time of `n` dictionaries by the runner that shares the forward pass."""
        size = self.run.size
        quarter = replace(self.plan, steps=max(1, self.plan.steps // 4))
        ks = size.sweep_k[: size.shared_k]
        self.run.done(
            f"{self.setting.name}: SAELens, {len(ks)} dictionaries, {quarter.steps} steps"
        )
        trained = _Clock(
            lambda: self.theirs.train_several(self.setting, quarter, ks, self.batch, self.dataset)
        ).seconds
        rows = quarter.steps * self.batch
        read = _Clock(
            lambda: self.theirs.stream(self.setting, quarter, self.dataset, rows, self.batch)
        ).seconds
        per_dictionary = max(trained - read, 0.0) / len(ks)
        return (read + n * per_dictionary) * self.plan.steps / quarter.steps


def _runs(run: Run) -> list[Table]:
    tables = []
    for i, setting in enumerate(settings(run, run.size.train_tokens, run.size.held_out_tokens)):
        comparison = _Comparison(run, setting)
        tables.append(comparison.one())
        if i == 0:
            tables.append(comparison.sweep())
    tables[-1].notes += skipped(run)
    return tables


RUNS = Part(
    "Whole runs to equal error",
    "From a loaded language model and tokens to a dictionary, the reading of activations "
    "included. SAELens by its documented runner (`LanguageModelSAETrainingRunner`, its activation "
    "store and trainer) for a budget of tokens; dictlearn by `harvest` to disk and `fit`, with "
    "ever more steps until the error on the same held-out rows, by the same function, is as low. "
    "All rungs are shown; who plans a run does not pay for the others. L0 is k for both. Learning "
    "rates rise over 5 % of the steps and fall to 0 over the last 20 %; each library has the best "
    "of 3e-4, 1e-3, 3e-3, 1e-2 and 3e-2 for a run on the built-in model, and is at its defaults "
    "otherwise. One run each, so a ratio is as good as the machine was quiet.",
    _runs,
)
