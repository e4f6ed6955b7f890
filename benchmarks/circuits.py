"""Attribution graphs: time and memory, and the same graph by circuit-tracer.

    make circuits                       # installs circuit-tracer, measures, writes the page
    python -m benchmarks.circuits [--threads 2] [--rounds 3] [--model FOLDER] [--short]

Each graph is made in a process of its own. Writes docs/results/circuits.md. `--short` leaves out
the longest prompt, which takes minutes; `--quick` shows that everything runs, and writes nothing.
"""

import argparse
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from safetensors.torch import load_file

from benchmarks.circuit_runs import PEER_GRAPH, Case, Run, agreement, prepared
from benchmarks.peers import machine
from benchmarks.peers.measure import Spread, digits
from benchmarks.peers.page import Section, Table, page
from benchmarks.peers.usage import GB, Usage
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.core.provenance import code_revision
from dictlearn.progress import progress

PAGE = Path("docs/results/circuits.md")
OURS = "dictlearn"
PEER = Path("benchmarks/peers/.venv-circuits/bin/python")
BATCHES = (32, 128, 512)
"""Features in a backward pass of circuit-tracer; the last is its default."""
CASES = (
    Case(32, None, builtin=True, k=8, limit="10 s"),
    Case(128, builtin=True, k=8, limit="6 s, 1.2 GB"),
    Case(128, limit="25 s, 2 GB"),
    Case(1000, long=True),
)
QUICK = (Case(8, 16, builtin=True, k=4, of_layer=64),)
BESIDE, QUICK_BESIDE = Case(128), Case(8, 16, k=4, of_layer=64)
"""The cases that circuit-tracer gets as well."""


def answered(command: list[str]) -> dict[str, Any] | str:
    """The last line that a process prints, as JSON, or why there is none."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    with contextlib.suppress(IndexError, json.JSONDecodeError):
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    if ran.returncode < 0:
        return f"was stopped ({signal.Signals(-ran.returncode).name})"
    said = ran.stderr.strip().splitlines()
    return f"ended with status {ran.returncode}" + (f": {said[-1][:200]}" if said else "")


def process(case: Case, folder: Path, args: argparse.Namespace) -> Run | str:
    """The run of a case in a process of its own, or why there is none."""
    given = (json.dumps(asdict(case)), args.model, folder, args.threads)
    answer = answered([sys.executable, "-m", "benchmarks.circuit_runs", *map(str, given)])
    return answer if isinstance(answer, str) else Run.of(answer)


def shown(usages: list[Usage]) -> tuple[str, str, str, str]:
    """Seconds and CPU-seconds with their ranges, and the largest peaks of memory in GB."""
    return (
        str(Spread.of(one.seconds for one in usages)),
        str(Spread.of(one.cpu_seconds for one in usages)),
        digits(max(one.above for one in usages) / GB),
        digits(max(one.whole for one in usages) / GB),
    )


def graphs(cases: Sequence[Case], args: argparse.Namespace, done: Callable[[], None]) -> Table:
    """Time and memory of each case."""
    table = Table(
        "Graphs of dictlearn",
        ("prompt", "nodes", "features expanded", "seconds", "CPU-seconds", "peak above, GB",
         "peak of the process, GB", "limit"),
    )  # fmt: skip
    for case in cases:
        runs: list[Run | str] = []
        for _ in range(1 if case.long else args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(process(case, Path(folder), args))
            done()
        made = [one for one in runs if isinstance(one, Run)]
        if len(made) < len(runs):
            table.add(str(case), *["—"] * 6, case.limit)
            table.notes += [f"{case}: {why}" for why in runs if isinstance(why, str)]
            continue
        sizes = (f"{made[0].nodes:,}", f"{made[0].features:,}")
        table.add(str(case), *sizes, *shown([one.usage for one in made]), case.limit)
    return table


def beside(case: Case, args: argparse.Namespace, done: Callable[[], None]) -> Table:
    """Ours and circuit-tracer's graph of the same prompt with the same transcoders, in turn."""
    table = Table(
        str(case),
        ("library", "seconds", "CPU-seconds", "time / dictlearn's", "CPU / dictlearn's",
         "peak above, GB", "peak of the process, GB"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        n_layers = prepared(case, args.model, folder, args.threads)
        usages: dict[str, list[Usage]] = {}
        for _ in range(args.rounds):
            for name, found in a_turn(case, folder, args):
                if isinstance(found, Usage):
                    usages.setdefault(name, []).append(found)
                else:
                    table.notes.append(f"{name} {found}")
                done()
        for name, own in usages.items():
            pairs = list(zip(own, usages[OURS], strict=False))
            ratios = (
                Spread.of(a.seconds / b.seconds for a, b in pairs),
                Spread.of(a.cpu_seconds / b.cpu_seconds for a, b in pairs),
            )
            seconds, cpu, *memory = shown(own)
            table.add(name, seconds, cpu, *map(str, ratios), *memory)
        if len(usages) > 1:
            ours, theirs = CircuitGraph.load(folder / "graph"), load_file(folder / PEER_GRAPH)
            table.notes.append(agreement(ours, theirs, n_layers).said())
    table.notes = list(dict.fromkeys(table.notes))
    return table


def a_turn(case: Case, folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, Usage | str]]:
    """The usage of each contender, or why there is none."""
    ours = process(case, folder / "graph", args)
    if isinstance(ours, str):
        raise RuntimeError(f"the graph of {case} {ours}")
    yield OURS, ours.usage
    for batch in BATCHES[:1] if args.quick else BATCHES:
        command = [args.peer, "-m", "benchmarks.peers.circuit_tracer_", folder, batch]
        answer = answered([str(word) for word in command])
        if isinstance(answer, str):
            yield f"circuit-tracer, batch {batch}", answer
        else:
            told = f"circuit-tracer {answer['version']}, batch {batch}"
            yield told, Usage(**answer["usage"])


def head(args: argparse.Namespace, minutes: float, revision: str | None) -> str:
    """What was measured, how, and on which machine."""
    return f"""# Attribution graphs: time and memory

Written by `make circuits` (`python -m benchmarks.circuits`). Every graph is made in a process of
its own, after one of four tokens that imports what is needed. Tokens are random, behind BOS where
the model has one; top-k transcoders of 1,024 features in every layer are as they are initialised.
The second model is the Llama in the folder given by `--model`.
Shown are medians, with the range over rounds in brackets. *Peak above* is the largest resident
memory less what was resident before (libraries, model, transcoders). CPU-seconds are those of all
threads, which a busy machine changes less than seconds.

* machine: {machine.described()}
* threads: {args.threads}; rounds: {args.rounds}, of the longest prompt one
* versions: {machine.versions()}
* measured in {minutes:.1f} minutes, at revision {revision}
"""


INTRODUCTION = """The same model, prompt, transcoders and number of features; in every round each
has its turn. circuit-tracer has an environment of its own (`benchmarks/peers/circuit_tracer.txt`),
since it needs another version of transformers. Its `from_pretrained` and
`from_pretrained_and_transcoders` take only names on TransformerLens' list (a folder is a
`ValueError` of transformer-lens 3.2.1, `get_official_model_name`). So the model is made by
`ReplacementModel.from_config`, and has the weights of the folder as TransformerLens converts them;
its logits are compared with those of transformers. Transcoders are written by
`dictlearn.interop.circuit_tracer` and read by circuit-tracer's own loader, which knows no top-k:
its `TopK` is set on what was loaded. Batches are features in one backward pass; 512 is its default.
Its features at the first token count as errors."""


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=Path("../shared/models/stories15M"),
                        help="folder of a Llama model; left out where it is absent")  # fmt: skip
    parser.add_argument("--peer", type=Path, default=PEER, help="Python that has circuit-tracer")
    parser.add_argument("--short", action="store_true", help="without the longest prompt")
    parser.add_argument("--quick", action="store_true", help="a smoke test, which writes nothing")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = arguments()
    args.rounds = 1 if args.quick else args.rounds
    began, revision = time.monotonic(), code_revision()
    cases = [
        case for case in (QUICK if args.quick else CASES)
        if (case.builtin or args.model.is_dir()) and not (case.long and args.short)
    ]  # fmt: skip
    why = next((f"{path} is absent" for path in (args.peer, args.model) if not path.exists()), "")
    n_beside = 0 if why else args.rounds * (2 if args.quick else 1 + len(BATCHES))
    total = n_beside + sum(1 if case.long else args.rounds for case in cases)
    with progress("graphs", total) as bar:
        steps = itertools.count(1)
        done = lambda: bar(next(steps))  # noqa: E731
        tables = [graphs(cases, args, done)]
        if not why:
            tables.append(beside(QUICK_BESIDE if args.quick else BESIDE, args, done))
    bodies = [table.markdown() for table in tables]
    sections = [
        Section("Time and memory", bodies[0]),
        Section(
            "Beside circuit-tracer",
            "\n\n".join([INTRODUCTION, *bodies[1:], *([why] if why else [])]),
        ),
    ]
    text = page(head(args, (time.monotonic() - began) / 60, revision), sections)
    Console().print(Markdown(text))
    if not args.quick:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
