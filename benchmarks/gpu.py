"""Speed and memory on a GPU: training steps beside other libraries, reading, and evaluation.

    make gpu                                            # tests on the GPU first, then this
    python -m benchmarks.gpu                            # into docs/results/gpu.md
    python -m benchmarks.gpu --device cpu --small       # seconds: shows that everything runs

Where there is no GPU, nothing is measured, and a page without results says so.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import dictlearn._threads  # noqa: F401  (before torch)

import torch  # isort: skip
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from benchmarks.peers import machine
from benchmarks.peers.language import BUILTIN, Setting
from benchmarks.peers.measure import Work, digits, in_turn
from benchmarks.peers.ours import OURS, OURS_INT8
from benchmarks.peers.page import Section, Table, page, sections_of
from benchmarks.peers.peer import Kind, Plan, Trainee
from benchmarks.peers.registry import Contenders, in_short
from benchmarks.peers.sizes import QUICK, Size
from benchmarks.peers.steps import TRANSCODERS, rows
from benchmarks.peers.usage import GB
from dictlearn.core.batches import Batch
from dictlearn.core.provenance import code_revision
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.kernels import gathering
from dictlearn.lm.loading import load_model

PAGE = Path("docs/results/gpu.md")
TITLE = "# Speed on a GPU, beside other libraries"
NOTHING = (
    f"{TITLE}\n\nNothing has been measured: no GPU was at hand. On a machine with one, `make gpu` "
    "runs the tests that\nneed it, then `python -m benchmarks.gpu`, which replaces this page.\n"
)
KINDS = (
    Kind.TOPK_SAE, Kind.RELU_SAE, Kind.CODEBOOK, Kind.TOPK_TRANSCODER, Kind.RELU_TRANSCODER,
)  # fmt: skip
N_DICTIONARIES = 4
LARGE = Size(
    width=1024, n_features=32_768, n_codes=32_768, batch=8192, rounds=15, run_features=16_384,
    harvest_tokens=400_000, harvest_rounds=5, eval_sequences=416,
)  # fmt: skip
"""Sizes that keep a GPU busy."""
SMALL = replace(QUICK, eval_sequences=4)


@dataclass(frozen=True)
class Device:
    """Where everything is measured: its clock and its memory."""

    torch_device: torch.device

    @property
    def is_gpu(self) -> bool:
        """Whether memory is counted and work is queued."""
        return self.torch_device.type == "cuda"

    def now(self) -> float:
        """Seconds, when all queued work is done."""
        if self.is_gpu:
            torch.cuda.synchronize(self.torch_device)
        return time.perf_counter()

    def peak(self, work: Callable[[], object]) -> float | None:
        """The most memory allocated during `work` beyond what was before; None on a CPU."""
        if not self.is_gpu:
            work()
            return None
        before = torch.cuda.memory_allocated(self.torch_device)
        torch.cuda.reset_peak_memory_stats(self.torch_device)
        work()
        self.now()
        return torch.cuda.max_memory_allocated(self.torch_device) - before

    def name(self) -> str:
        """The device by its maker's name."""
        if not self.is_gpu:
            return "no GPU: a trial on the CPU"
        return torch.cuda.get_device_name(self.torch_device)


def shown(peak: float | None) -> str:
    """Bytes in GB; a dash for none."""
    return "—" if peak is None else digits(peak / GB)


def steps(kind: Kind, size: Size, device: Device, contenders: Contenders) -> Table:
    """One training step of each library, and the most memory that it takes with its dictionary."""
    n_features, k = size.features_of(kind)
    plan = Plan(size.width, n_features, k)

    def on_device(seed: int) -> Tensor:
        return rows(size.batch, plan.width, seed).to(device.torch_device)

    x = on_device(0)
    batch = Batch(x, on_device(1) if kind in TRANSCODERS else x)
    table = Table(
        f"{kind.value}: {n_features:,} of width {plan.width}, k = {k}, batch {size.batch:,}",
        ("library", "ms a step", "time / dictlearn's", "peak memory, GB"),
    )
    works: dict[str, Work] = {}
    peaks: dict[str, float | None] = {}
    for peer in contenders.offering(kind):
        if peer is OURS_INT8:  # an option of the CPU
            continue
        made: list[Trainee] = []

        def two_steps(make: Callable = peer.makers[kind], made: list[Trainee] = made) -> None:
            made.append(make(plan, batch))
            for _ in range(2):
                made[0].update(batch)

        try:
            peaks[peer.name] = device.peak(two_steps)
            works[peer.name] = partial(made[0].update, batch)
        except Exception as error:  # a peer that fails is named, and the others go on
            table.notes.append(f"{peer.name} failed: {in_short(error)}")
    timings = in_turn(works, rounds=size.rounds, clock=device.now)
    ours = timings.get(OURS.name)
    for name, timing in timings.items():
        ratio = "1" if timing is ours else str(timing.times(ours)) if ours else "—"
        table.add(name, digits(1000 * median(timing.seconds)), ratio, shown(peaks[name]))
    return table


def reading(size: Size, device: Device) -> Table:
    """Tokens a second to the end of a layer, and through an evaluation."""
    n_held_out = size.eval_sequences * 255
    setting = Setting(
        BUILTIN, load_model(BUILTIN, device=str(device.torch_device)), 1,
        size.harvest_tokens, n_held_out,
    )  # fmt: skip
    train, held_out = setting.train, setting.held_out
    config = RandomConfig(n_features=size.run_features, k=size.k)
    dictionaries = {
        f"random {i}": config.build(setting.sites, seed=i).to(device.torch_device)
        for i in range(N_DICTIONARIES)
    }

    def live() -> None:
        """One epoch in batches, as training reads them."""
        activations = harvest(setting.model, train, setting.sites)
        for step in range(max(1, activations.n_rows // size.run_batch)):
            activations.rows(0, step, size.run_batch)

    def evaluated() -> None:
        evaluate(dictionaries, setting.model, held_out, progress=False)

    works: dict[str, tuple[Work, int]] = {
        "bare passes to the end of layer 1": (
            lambda: setting.bare_forward(train.ids.to(device.torch_device)), train.ids.numel()
        ),
        "live activations of that layer, shuffled": (live, train.ids.numel()),
        f"evaluation of {N_DICTIONARIES} dictionaries": (evaluated, held_out.ids.numel()),
    }  # fmt: skip
    peaks = {name: device.peak(work) for name, (work, _) in works.items()}
    timings = in_turn(
        {name: work for name, (work, _) in works.items()},
        rounds=size.harvest_rounds, warm_up=False, clock=device.now,
    )  # fmt: skip
    table = Table(f"{setting.name}, `{setting.hook}`", ("work", "tokens / s", "peak memory, GB"))
    for name, (_, n_tokens) in works.items():
        table.add(name, digits(n_tokens / median(timings[name].seconds)), shown(peaks[name]))
    return table


def head(device: Device, contenders: Contenders, minutes: float, revision: str | None) -> str:
    """Command, device, versions, and what is counted."""
    libraries = map(" ".join, contenders.versions().items())
    lines = [
        TITLE,
        "",
        "Written by `python -m benchmarks.gpu`, the second half of `make gpu`. Every library takes "
        "its full step on the same rows on the same card, in turn within every round; shown are "
        "medians, with the range over rounds of ratios. Clocks are read when the card has done all "
        "that was asked of it. Peak memory is what torch allocated on the card: for steps the "
        "parameters, the optimizer's state and all that two steps need.",
        "",
        f"* device: {device.name()}",
        f"* machine: {machine.described()}",
        f"* versions: {', '.join([machine.versions(), *libraries])}",
        *(f"* sparse products: {told}" for told in gathering.told()),
        *(f"* left out: {name} ({why})" for name, why in contenders.absent.items()),
        f"* measured in {minutes:.1f} minutes, at revision {revision}",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a trial, which writes no page")
    parser.add_argument("--out", type=Path, help=f"the page to write (by default {PAGE})")
    args = parser.parse_args(arguments)
    out = args.out or (None if args.small else PAGE)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        Console().print("nothing was measured: required a CUDA device, found none")
        if out is not None and not (out.exists() and sections_of(out.read_text("utf-8"))):
            out.write_text(NOTHING, encoding="utf-8")
        return
    warnings.filterwarnings("ignore")  # of other libraries
    device, contenders = Device(torch.device(args.device)), Contenders()
    size = SMALL if args.small else LARGE
    began, revision = time.monotonic(), code_revision()
    tables: dict[str, list[Table]] = {"One training step": [], "Reading and evaluation": []}
    works = [partial(steps, kind, size, device, contenders) for kind in KINDS]
    console = Console(stderr=True)
    with console.status("measuring") if console.is_terminal else nullcontext():
        for title, work in zip(tables, (works, [partial(reading, size, device)]), strict=True):
            for one in work:
                tables[title].append(one())
                Console().print(Markdown(tables[title][-1].markdown()))
    sections = [
        Section(title, "\n\n".join(table.markdown() for table in found))
        for title, found in tables.items()
    ]
    if out is not None:
        minutes = (time.monotonic() - began) / 60
        text = page(head(device, contenders, minutes, revision), sections)
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
