"""Progress of a run: a log of JSON lines, and a live view in a terminal, or lines elsewhere."""

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from dictlearn.core.files import plain_data, typed
from dictlearn.core.own_files import OwnFiles
from dictlearn.progress import Pace, in_terminal, lines

LOG_FILE = "train.jsonl"
_SHOWN = {
    "loss": ("loss", ".4f"), "l0": ("L0", ".1f"), "fvu": ("FVU", ".4f"), "dead": ("dead", ".1%"),
}  # fmt: skip
"""Numbers that are shown while a run goes on, by their keys, with their labels and formats."""


class TrainingLog:
    """Appends one JSON object a line, with keys `step`, `seconds`, `rows_per_second` and
    `NAME/METRIC`, or `step` and `stopped`. On resuming, steps that are taken again are dropped.
    """

    def __init__(self, own: OwnFiles | None, from_step: int) -> None:
        self._path = own.path / LOG_FILE if own else None
        self._start = time.monotonic()
        self._from_step = from_step
        self.last: Mapping[str, Mapping[str, float]] = {}
        """The numbers of the last line, by dictionary and metric."""
        if own and self._path:
            kept = _lines_until(self._path, from_step) if from_step else []
            self.last = _numbers(kept)
            own.write_text(LOG_FILE, "".join(kept))
            own.grow(LOG_FILE)

    def write(self, step: int, scalars: Mapping[str, Mapping[str, float]], n_rows: int) -> float:
        """Append the line of `step`; the rows per second since the start."""
        self.last = scalars
        seconds = time.monotonic() - self._start
        speed = n_rows * (step - self._from_step) / max(seconds, 1e-9)
        line: dict[str, Any] = {
            "step": step,
            "seconds": round(seconds, 3),
            "rows_per_second": round(speed, 1),
        }
        for name, metrics in scalars.items():
            for metric, value in metrics.items():
                line[f"{name}/{metric}"] = value if math.isfinite(value) else None
        self._append(line)
        return speed

    def stopped(self, step: int, reasons: Mapping[str, str]) -> None:
        """Append the dictionaries that diverged at `step`, if any, each with the reason."""
        if reasons:
            self._append({"step": step, "stopped": dict(reasons)})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class LiveView:
    """A progress bar over a table of loss, L0, FVU and dead fraction, on standard error.

    Without a terminal, it is a line with the same numbers every ten seconds.
    """

    def __init__(self, names: Iterable[str], steps: int, from_step: int, *, show: bool) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("time left"),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", total=steps, completed=from_step, speed="")
        self._names = list(names)
        self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._from_step = from_step
        self._pace, self._numbers = Pace("training", steps, from_step), ""
        self._show, self._drawn = show, show and in_terminal()
        self._held = ExitStack()

    def __enter__(self) -> "LiveView":
        if self._show and self._from_step:
            self._live.console.print(f"continued from step {self._from_step:,}", highlight=False)
        if self._drawn:
            self._held.enter_context(self._live)
            self._live.update(self._progress)
        else:
            self._held.enter_context(lines(lambda: f"{self._pace}{self._numbers}", show=self._show))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        self._pace.done = step
        if self._drawn:
            self._progress.update(self._task, completed=step)

    def show(self, scalars: Mapping[str, Mapping[str, float]], speed: float) -> None:
        """Show the latest numbers, as far as the learners have them."""
        rows = {
            name: {
                head: format(values[key], spec)
                for key, (head, spec) in _SHOWN.items()
                if key in values
            }
            for name in self._names
            if (values := scalars.get(name))
        }
        told = (
            f"; {name}: {', '.join(f'{head} {value}' for head, value in row.items())}"
            for name, row in rows.items()
        )
        self._numbers = f", {speed:,.0f} rows/s{''.join(told)}"
        if not self._drawn:
            return
        self._progress.update(self._task, speed=f"{speed:,.0f} rows/s")
        table = Table(box=None, pad_edge=False)
        table.add_column("dictionary")
        heads = [head for head, _ in _SHOWN.values()]
        for head in heads:
            table.add_column(head, justify="right")
        for name, row in rows.items():
            table.add_row(name, *(row.get(head, "–") for head in heads))
        self._live.update(Group(self._progress, table))


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines of a log up to and including `step`, without damaged ones."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if typed(plain_data(line), _Line).step <= step:
                kept.append(line)
        except ValueError:  # damaged, or half-written when the run was killed
            continue
    return kept


def _numbers(lines: Sequence[str]) -> dict[str, dict[str, float]]:
    """The numbers of the last line that has any, by dictionary and metric."""
    for line in reversed(lines):
        found: dict[str, dict[str, float]] = {}
        for key, value in plain_data(line).items():
            name, _, metric = key.partition("/")  # a metric may be "loss/l1"
            if metric and value is not None:
                found.setdefault(name, {})[metric] = value
        if found:
            return found
    return {}


@dataclass(frozen=True)
class _Line:
    step: int
