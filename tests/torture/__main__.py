"""`python -m tests.torture --kills 200 --seed 0`: commands killed at random and started again.

Each trial starts one command in an empty folder, kills it with SIGKILL at a random moment or before
a random file operation, starts it again, perhaps kills it again, until it finishes. The folder must
then equal that of a run that was never killed. With --each-operation, every file operation of a
command gets a trial, which is killed before it. Studies record the revision of the code, so commit
nothing meanwhile.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a process with one thread can be forked

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from tests.torture.commands import COMMANDS, OUT, REFUSALS, Ended, Kill, preload, started
from tests.torture.folders import LOCK_FILE, differences

AGAIN = 0.5
"""Probability that a command that was started again is killed again."""
COUNTS = ("trials", "kills", "moments", "operations", "equal", "failed", "stray", "locks")


@dataclass
class Target:
    """A command that is killed: its run that nobody killed, counts, and the trials that failed."""

    name: str
    command: list[str]
    place: Path
    whole: Ended
    counts: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def measured(cls, name: str, place: Path) -> "Target":
        """The command of this name, after a run that nobody killed."""
        whole = finished(command(name, place, OUT), place / f"{name}-whole")
        return cls(name, command(name, place, OUT), place, whole)

    def kills(self, seed: int, trial: int) -> Iterator[Kill]:
        """The kills of a trial, at random moments or before random file operations."""
        chance = random.Random(f"{seed} {self.name} {trial}")
        while True:
            if chance.random() < 0.5:
                yield Kill(after_seconds=chance.uniform(0, self.whole.seconds))
            else:
                yield Kill(before_operation=chance.randrange(self.whole.operations))
            if chance.random() >= AGAIN:
                return

    def try_(self, trial: int, kills: Iterator[Kill], options: str) -> None:
        """One trial, counted; its folder stays if it failed."""
        folder = self.place / f"{self.name}-{trial}"
        folder.mkdir()
        killed: list[str] = []
        while (ended := started(self.command, folder, kill := next(kills, None))).status is None:
            assert kill is not None
            self.counts["moments" if kill.after_seconds else "operations"] += 1
            killed.append(f"{kill} ({ended.operations} file operations were done)")
        if ended.status and REFUSALS.get(self.name, "\0") not in ended.said:
            wrong = [f"exit status {ended.status}: {ended.said[-300:]}"]
        else:
            wrong = differences(folder / OUT, self.place / f"{self.name}-whole" / OUT)
        self.counts["trials"] += 1
        self.counts["kills"] += len(killed)
        self.counts["locks"] += any((folder / OUT).rglob(LOCK_FILE))
        self.counts["failed" if wrong else "equal"] += 1
        if not wrong:
            shutil.rmtree(folder)
            return
        self.counts["stray"] += sum(line.startswith("stray") for line in wrong)
        again = f"python -m tests.torture --command {self.name} --trial {trial} {options}"
        told = [f"\n{self.name}, killed {', '.join(killed)}:", *wrong, f"folder: {folder / OUT}"]
        self.failures.append("\n  ".join([*told, f"again: {again}"]))


def main() -> int:
    """Run all trials; the exit status, 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="in all, or of --command alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS, help="this command alone")
    parser.add_argument("--trial", type=int, help="this trial of --command alone, to look into it")
    parser.add_argument("--each-operation", action="store_true")
    given = parser.parse_args()
    if given.trial is not None and given.command is None:
        parser.error("--trial needs --command")
    console = Console(width=None if sys.stdout.isatty() else 130)
    preload()
    place = Path(tempfile.mkdtemp(prefix="torture-")).resolve()
    targets = []
    with Progress(console=console, auto_refresh=False) as bar:  # a thread would be forked
        finished(command("harvest", place, "store"), place)
        finished(command("fit", place, "run"), place)
        for name in [given.command] if given.command else COMMANDS:
            targets.append(Target.measured(name, place))
            attack(targets[-1], given, bar, bar.add_task(name))
    table = Table("command", "seconds", "file operations", *COUNTS, box=None, pad_edge=False)
    for one in targets:
        counts = [str(one.counts[key]) for key in COUNTS]
        table.add_row(one.name, f"{one.whole.seconds:.1f}", str(one.whole.operations), *counts)
    console.print(table)
    failures = [failure for one in targets for failure in one.failures]
    for failure in failures:
        console.print(failure, markup=False, highlight=False, soft_wrap=True)
    if not failures:
        shutil.rmtree(place)
    return bool(failures)


def attack(target: Target, given: argparse.Namespace, bar: Progress, task: TaskID) -> None:
    """The trials of one command: one, one per file operation, or until killed enough."""
    n_commands = 1 if given.command else len(COMMANDS)
    counted = "trials" if given.each_operation else "kills"
    wanted = target.whole.operations if given.each_operation else given.kills // n_commands
    first = given.trial or 0
    trials = range(first, first + 1 if given.trial is not None else 100 * wanted)
    for trial in trials:
        if target.counts[counted] >= wanted:
            break
        if given.each_operation:
            kills, options = iter([Kill(before_operation=trial)]), "--each-operation"
        else:
            kills, options = target.kills(given.seed, trial), f"--seed {given.seed}"
        target.try_(trial, kills, options)
        bar.update(task, total=wanted, completed=target.counts[counted], refresh=True)


def command(name: str, inputs: Path, out: str) -> list[str]:
    """The arguments of `dictlearn`: from the folder of `inputs`, to the folder `out`."""
    return [part.format(inputs=inputs, out=out) for part in COMMANDS[name]]


def finished(command: list[str], folder: Path) -> Ended:
    """How a command ended that nobody killed."""
    folder.mkdir(exist_ok=True)
    ended = started(command, folder)
    if ended.status:
        raise ChildProcessError(f"{command} failed: {ended.said}")
    return ended


if __name__ == "__main__":
    sys.exit(main())
