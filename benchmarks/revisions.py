"""This revision beside an earlier one: start-up, evaluation and the demo, in turn in one run.

    python -m benchmarks.revisions e0b11d7 [--rounds 3] [--without demo]

The earlier revision is checked out into a temporary folder, and both run in this environment. Each
command has one turn before, which compiles loops. Written to docs/results/revisions.md.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.peers import machine
from benchmarks.peers.measure import Spread, digits
from benchmarks.peers.page import Section, Table, page
from dictlearn.core.provenance import code_revision

ROOT = Path(__file__).parents[1]
PAGE = Path("docs/results/revisions.md")
HEAD = """# Beside an earlier revision

Written by `python -m benchmarks.revisions`. Commands of both revisions have their turns in one run,
in one environment; a number in brackets is the range over rounds."""
PREPARATION = (
    ("harvest", "--hook", "blocks.0.hook_mlp_out", "--tokens", "20000", "--out", "activations"),
    ("train", "activations", "--kind", "sae", "--n-features", "512", "--steps", "30",
     "--out", "trained"),
)  # fmt: skip
"""What makes the dictionary that is evaluated."""
PARTS: dict[str, tuple[str, ...]] = {
    "import torch": ("-c", "import torch"),
    "import dictlearn": ("-c", "import torch, dictlearn"),
    "dictlearn --help": ("-m", "dictlearn", "--help"),
    "dictlearn kinds": ("-m", "dictlearn", "kinds"),
    "dictlearn models": ("-m", "dictlearn", "models"),
    "evaluate, 40,000 tokens": ("-m", "dictlearn", "evaluate", "trained", "--out", "OUT"),
    "demo": ("-m", "dictlearn", "demo", "--out", "OUT"),
}
ONCE = "demo"
"""The part that is long enough to be measured in one round."""


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a revision, in a folder."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def run(tree: Path, arguments: tuple[str, ...], work: Path) -> tuple[float, float]:
    """The CPU time and the time by the clock of a command of the package in `tree`."""
    out = work / f"out-{time.monotonic_ns()}"
    command = [sys.executable, *(str(out) if a == "OUT" else a for a in arguments)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, took


def compared(
    trees: dict[str, Path], parts: dict[str, tuple[str, ...]], rounds: int, folder: Path,
    done: Callable[[str], object],
) -> Table:  # fmt: skip
    """The times of each part in both revisions, and their ratio."""
    table = Table(
        "CPU seconds", ("what", *trees, "now / before", *(f"by the clock, {t}" for t in trees))
    )
    works = {name: folder / f"work-{i}" for i, name in enumerate(trees)}
    for name, tree in trees.items():  # each evaluates what it trained itself
        works[name].mkdir()
        for words in PREPARATION:
            run(tree, ("-m", "dictlearn", *words), works[name])
    for part, arguments in parts.items():
        once = part == ONCE
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
        for turn in range(1 if once else rounds + 1):
            for name, tree in trees.items():
                done(f"{part}, {name}: round {turn}")
                taken[name].append(run(tree, arguments, works[name]))
        cpu, clock = (
            [[times[kind] for times in taken[name][0 if once else 1 :]] for name in trees]
            for kind in (0, 1)
        )
        ratio = Spread.of(new / old for old, new in zip(*cpu, strict=True))
        table.add(
            part, *(str(Spread.of(c)) for c in cpu), str(ratio),
            *(digits(Spread.of(c).median) for c in clock),
        )  # fmt: skip
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="the earlier revision, as git names it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[], metavar="PART")
    args = parser.parse_args()
    console, began = Console(stderr=True), time.monotonic()
    parts = {name: words for name, words in PARTS.items() if name not in args.without}
    with TemporaryDirectory() as folder, checked_out(args.revision, Path(folder) / "old") as old:
        trees = {args.revision: old, "now": ROOT}
        table = compared(trees, parts, args.rounds, Path(folder), console.log)
    foot = (
        f"Measured in {(time.monotonic() - began) / 60:.1f} minutes, at revision "
        f"{code_revision()}, on {machine.described()}."
    )
    section = Section("Times", f"{table.markdown()}\n\n{foot}")
    Console().print(Markdown(section.markdown()))
    PAGE.write_text(page(HEAD, [section]), encoding="utf-8")


if __name__ == "__main__":
    main()
