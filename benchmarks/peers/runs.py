"""Whole runs: from a language model and tokens to a dictionary of equal error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.peers import ours_runs
from benchmarks.peers.language import Setting, builtin, not_there, second
from benchmarks.peers.losses import Lesson, final_error
from benchmarks.peers.measure import digits, seconds
from benchmarks.peers.page import Table
from benchmarks.peers.part import Part, Run
from benchmarks.peers.peer import Kind, Plan
from dictlearn.harvesting import harvest
from dictlearn.metrics.reconstruction import fraction_variance_unexplained


@torch.no_grad()
def quality(encode: Callable, forward: Callable, setting: Setting) -> tuple[float, float]:
    """FVU and L0 on the held-out rows, by the same functions for everyone."""
    x = setting.held_out_rows
    l0 = torch.cat([(encode(rows) != 0).sum(dim=1) for rows in x.split(4096)]).float().mean()
    return float(fraction_variance_unexplained(x, forward(x))), float(l0)


_NOT_REACHED = "dictlearn did not reach the error of SAELens in these numbers of steps"


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
        steps = setting.n_tokens // self.batch
        self.plan = Plan(setting.sites.target.d, size.run_features, size.k, steps=steps)
        self.dataset = saelens_runs.as_dataset(setting.train)
        self.rates = self._rates()

    def _rates(self) -> dict[str, float]:
        """The better learning rate of each library, by a quarter of the steps."""
        live = harvest(self.setting.model, self.setting.train, self.setting.sites)
        steps = range(max(1, self.plan.steps // 4))
        rows = [live.rows(0, step, self.batch).batch(self.setting.sites) for step in steps]
        lesson = Lesson(rows, self.setting.held_out_rows)
        short = replace(self.plan, steps=len(rows))
        found = {}
        for name in ("dictlearn", "SAELens"):
            self.run.done(f"{self.setting.name}: trials of {len(rows)} steps, {name}")
            errors = {}
            for rate in self.run.size.run_rates:
                trial = replace(short, learning_rate=rate)
                peer = self.run.contenders.named(name)
                errors[rate] = final_error(peer, Kind.TOPK_SAE, trial, lesson)
            found[name] = min(errors, key=errors.__getitem__)
        return found

    def one(self) -> Table:
        """The table on one dictionary."""
        plan = self.plan
        table = Table(
            f"{self.setting.name}, `{self.setting.hook}`: one top-k SAE, {plan.n_features:,} of "
            f"width {plan.width}, k = {plan.k}, batch {self.batch:,}",
            ("run", "steps", "seconds", "FVU", "L0", "SAELens' time / this"),
        )
        table.notes.append(
            "learning rates: "
            + ", ".join(f"{rate:g} ({name})" for name, rate in self.rates.items())
        )
        theirs = self._saelens(plan)
        table.add(*theirs.row("SAELens", plan.steps, theirs.seconds))
        for steps, ours in self._rungs((plan.k,), plan, theirs.error):
            table.add(*ours.row("dictlearn", steps, theirs.seconds))
        if ours.error > theirs.error:
            table.notes.append(_NOT_REACHED)
        return table

    def _rungs(
        self, ks: tuple[int, ...], plan: Plan, error: float
    ) -> Iterator[tuple[int, "_Result"]]:
        """Ours with ever more steps, and their number, until the error is as low as `error`."""
        for part in self.run.size.run_ladder:
            steps = max(1, round(plan.steps * part))
            ours = self._ours(steps, ks, plan)
            yield steps, ours
            if ours.error <= error:
                return

    def sweep(self) -> Table:
        """The table on twelve dictionaries for a quarter of the steps, after `one`."""
        size, ks = self.run.size, self.run.size.sweep_k
        plan = replace(self.plan, steps=max(1, self.plan.steps // 4))
        table = Table(
            f"{self.setting.name}, `{self.setting.hook}`: {len(ks)} top-k SAEs of that size, "
            f"k = {', '.join(map(str, ks))}",
            ("run", "steps", "seconds", f"FVU at k = {plan.k}", "time / dictlearn's last"),
        )
        one = self._saelens(plan)
        shared = self._shared_forward(plan)
        ladder = list(self._rungs(ks, plan, one.error))
        last = ladder[-1][1]
        runs = [
            ("SAELens, one run after another", plan.steps, len(ks) * one.seconds, one.error),
            ("SAELens, `MultiSAETrainingRunner`", plan.steps, shared, one.error),
            *(("dictlearn, one `fit`", steps, ours.seconds, ours.error) for steps, ours in ladder),
        ]
        for name, steps, took, error in runs:
            ratio = digits(took / last.seconds)
            table.add(name, f"{steps:,}", digits(took), digits(error), ratio)
        if last.error > one.error:
            table.notes.append(_NOT_REACHED)
        table.notes += [
            f"one run after another: one run of {digits(one.seconds)} s, {len(ks)} times",
            f"`MultiSAETrainingRunner`: from {size.shared_k} dictionaries, taken to be linear in "
            "dictionaries beyond the reading of activations; its errors are taken to be those of "
            "single runs",
        ]
        return table

    def _saelens(self, plan: Plan) -> "_Result":
        self.run.done(f"{self.setting.name}: SAELens, {plan.steps} steps")
        plan = replace(plan, learning_rate=self.rates["SAELens"])
        clock = _Clock(lambda: self.theirs.train_one(self.setting, plan, self.batch, self.dataset))
        sae = clock.result
        return _Result(clock.seconds, *quality(sae.encode, sae, self.setting))

    def _ours(self, steps: int, ks: tuple[int, ...], plan: Plan) -> "_Result":
        self.run.done(f"{self.setting.name}: dictlearn, {steps} steps, {len(ks)} dictionaries")
        plan = replace(plan, steps=steps, learning_rate=self.rates["dictlearn"])
        clock = _Clock(lambda: ours_runs.train(self.setting, plan, ks, self.batch))
        dictionary = clock.result[plan.k]
        return _Result(clock.seconds, *quality(dictionary.encode, dictionary, self.setting))

    def _shared_forward(self, plan: Plan) -> float:
        """The time of the sweep by the runner that shares the forward pass."""
        ks = self.run.size.sweep_k[: self.run.size.shared_k]
        self.run.done(f"{self.setting.name}: SAELens, {plan.steps} steps, {len(ks)} dictionaries")
        plan = replace(plan, learning_rate=self.rates["SAELens"])
        trained = _Clock(
            lambda: self.theirs.train_several(self.setting, plan, ks, self.batch, self.dataset)
        ).seconds
        rows = plan.steps * self.batch
        read = _Clock(
            lambda: self.theirs.stream(self.setting, plan, self.dataset, rows, self.batch)
        ).seconds
        return read + len(self.run.size.sweep_k) * max(trained - read, 0.0) / len(ks)


@dataclass(frozen=True)
class _Result:
    """Time and result of one run."""

    seconds: float
    error: float
    l0: float

    def row(self, name: str, steps: int, their_seconds: float) -> tuple[str, ...]:
        """The run as a row of the table on one dictionary."""
        ratio = digits(their_seconds / self.seconds)
        return name, f"{steps:,}", *map(digits, (self.seconds, self.error, self.l0)), ratio


def _builtin(run: Run) -> list[Table]:
    comparison = _Comparison(run, builtin(run.size.train_tokens, run.size.held_out_tokens))
    return [comparison.one(), comparison.sweep()]


def _second(run: Run) -> list[Table]:
    setting = second(run, run.size.second_tokens, run.size.held_out_tokens)
    if setting is None:
        return [not_there()]
    comparison = _Comparison(run, setting)
    return [comparison.one(), comparison.sweep()]


_PROTOCOL = (
    "From a loaded language model and tokens to a dictionary, the reading of activations "
    "included. SAELens by its documented runner (`LanguageModelSAETrainingRunner`, its activation "
    "store and trainer) for a budget of tokens; dictlearn by `harvest` to disk and `fit`, with "
    "ever more steps until the error on the same held-out rows, by the same function, is as low. "
    "All rungs are shown; who plans a run does not pay for the others. L0 is k for both. Learning "
    "rates rise over 5 % of the steps and fall to 0 over the last 20 %; each library has the "
    "best of three by a trial that is not counted, and is at its defaults otherwise. One run "
    "each, so a ratio is as good as the machine was quiet."
)
RUNS = Part(
    "Whole runs to equal error: the built-in model",
    _PROTOCOL + " A sweep then trains twelve dictionaries for a quarter of the budget, likewise.",
    _builtin,
)
SECOND = Part(
    "Whole runs to equal error: a second model",
    "By the protocol of the built-in model, on the language model in the folder given by "
    "`--model`.",
    _second,
)
