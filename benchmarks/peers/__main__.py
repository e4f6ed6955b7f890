"""Time this library beside others, print the tables, and write them as Markdown.

make peers                         # everything, into docs/results/speed.md
make peers ARGS="--only steps"     # one section measured again, the others kept
make peers-avx2                    # without the instructions that newer processors have
make peers ARGS="--quick"          # seconds: shows that everything runs, writes nothing
"""

import argparse
import time
import warnings
from pathlib import Path

import dictlearn._threads  # noqa: F401  (before torch)

import torch  # isort: skip
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.peers import machine
from benchmarks.peers.evaluations import EVALUATION
from benchmarks.peers.harvests import HARVEST
from benchmarks.peers.losses import LOSSES
from benchmarks.peers.memory import MEMORY
from benchmarks.peers.page import Section, renew
from benchmarks.peers.part import Part, Run
from benchmarks.peers.registry import Contenders
from benchmarks.peers.runs import RUNS, SECOND
from benchmarks.peers.sizes import QUICK, Size
from benchmarks.peers.steps import GROWTH, STEPS
from dictlearn.core.provenance import code_revision

PAGE = Path("docs/results/speed.md")
PARTS: dict[str, Part] = {
    "steps": STEPS,
    "growth": GROWTH,
    "losses": LOSSES,
    "memory": MEMORY,
    "runs": RUNS,
    "second": SECOND,
    "harvest": HARVEST,
    "evaluation": EVALUATION,
}


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="a smoke test of every section")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("../shared/models/stories15M"),
        help="folder of a second language model for whole runs; left out where it is absent",
    )
    parser.add_argument("--out", type=Path, help=f"the page to write (by default {PAGE})")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = arguments()
    warnings.filterwarnings("ignore")  # of other libraries
    torch.set_num_threads(args.threads)
    contenders = Contenders()
    target = "peers-avx2" if machine.instructions() == "AVX2" else "peers"
    command = " ".join(["make", target, *_without_paths(args)])
    out = args.out or (None if args.quick else PAGE)
    for name in args.only:
        section = measured(PARTS[name], args, contenders, command)
        Console().print(Markdown(section.markdown()))
        if out is not None:  # at once: a run that is stopped keeps what it has measured
            head = machine.head(contenders.versions(), contenders.absent)
            renew(out, head, section, [part.title for part in PARTS.values()])


def _without_paths(args: argparse.Namespace) -> list[str]:
    """The arguments in the form shown on the page."""
    said = ["--quick"] if args.quick else []
    if args.only != list(PARTS):
        said += ["--only", *args.only]
    return [f'ARGS="{" ".join(said)}"'] if said else []


def measured(part: Part, args: argparse.Namespace, contenders: Contenders, command: str) -> Section:
    """One section, with a spinner that says what is under way."""
    began = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(part.title)

        def done(label: str) -> None:
            bar.update(task, description=f"{part.title}: {label}")
            if not console.is_terminal:
                console.log(f"{part.title}: {label}")

        size = QUICK if args.quick else Size()
        run = Run(size, contenders, args.threads, args.model, done)
        revision = code_revision()  # of the code that is measured, before others change it
        return part.section(
            run,
            machine.instructions(),
            lambda: (
                f"Measured by `{command}` with {args.threads} threads, in "
                f"{(time.monotonic() - began) / 60:.1f} minutes, at revision {revision}, on "
                f"{machine.described()}."
            ),
        )


if __name__ == "__main__":
    main()
