"""What reading a model costs beside its own forward passes, fixed costs included.

    python -m benchmarks.harvest [--lengths 128 512 1024] [--tokens 2000 16000] [--parts harvest]
    python -m benchmarks.harvest --memory [--lengths 2048 8192] [--parts harvest evaluate]

Written to docs/results/harvest.md, unless `--quick` shows that everything runs.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.peers import machine
from benchmarks.peers.measure import digits
from benchmarks.peers.page import Section, Table, renew
from dictlearn.core.provenance import code_revision
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.evaluation.cards.describe_features import describe_features
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.harvesting import harvest
from dictlearn.lm import attention
from dictlearn.lm.forward import default_batch_size, reading
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites

LAYER = 14
N_FEATURES, N_CARDS = 1024, 20
N_KNOWN = 4096
"""Ids below this have a text: the tokenizer is that of the built-in model."""
PARTS = ("harvest", "evaluate", "cards")
PAGE = Path("docs/results/harvest.md")
TIMES, MEMORY = "Time", "Memory"
HEAD = """# What reading a model costs

Written by `python -m benchmarks.harvest` and, for memory, `python -m benchmarks.harvest --memory`.
A Llama of 135 million parameters with random weights (30 layers, grouped queries, a vocabulary of
49,152) is read at the MLP of layer 14, in blocks of random tokens."""
ON_TIMES = """CPU time on one thread, over that of the bare passes that the part needs, which end at
layer 14 where nothing behind it is needed and compute attention as the model does. The two are
measured in turn, once; nothing was tried or remembered before, so fixed costs are included; so is
the compilation of loops in the first `evaluate` of an installation.
`harvest` writes rows to disk; `evaluate` scores one dictionary of 1,024 features (two passes to the
layer, one whole, four from the layer to the end); `cards` describes 20 features."""
ON_MEMORY = """The highest resident memory above that of the loaded model, of one block, each in a
process of its own."""


def llama(folder: Path) -> Any:
    """A model of the shape of SmolLM2-135M with random weights."""
    config = transformers.LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with as_file(files("dictlearn.assets") / "stories" / "tokenizer.json") as path:
        (folder / "tokenizer.json").write_bytes(path.read_bytes())
    return load_model(folder, "cpu", check=False)


def tokens_of(n: int, length: int) -> Tokens:
    """At least `n` random tokens, in blocks of this length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(N_KNOWN, (-(-n // length), length), generator=generator)
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), source="", split="", hash="random")


def cpu_seconds(work: Callable[[Tokens], object], tokens: Tokens) -> float:
    """The CPU time of one call."""
    start = time.process_time()
    work(tokens)
    return time.process_time() - start


class Subject:
    """A model and one place in it."""

    def __init__(self, folder: Path) -> None:
        self.model, self._folder = llama(folder / "model"), folder
        self.hook = f"blocks.{LAYER}.hook_mlp_out"
        self.sites = hook_sites(self.model, self.hook)
        dictionary = RandomConfig(n_features=N_FEATURES, k=16).build(self.sites, seed=0)
        self.dictionaries = {"random": dictionary}

    def harvest(self, tokens: Tokens) -> None:
        """Rows on disk."""
        out = self._folder / "store"
        harvest(self.model, tokens, self.sites, out, overwrite=True, progress=False)

    def evaluate(self, tokens: Tokens) -> None:
        """The record of one dictionary."""
        evaluate(self.dictionaries, self.model, tokens, progress=False)

    def cards(self, tokens: Tokens) -> None:
        """Cards of some features of one dictionary."""
        describe_features(self.dictionaries, self.model, tokens, N_CARDS, progress=False)

    def to_layer(self, tokens: Tokens) -> None:
        """A pass that ends at the layer."""
        with reading(self.model, [self.hook]) as read:
            for ids in self._batches(tokens):
                read(ids)

    @torch.no_grad()
    def whole(self, tokens: Tokens) -> None:
        """A pass to the end."""
        for ids in self._batches(tokens):
            self.model(ids)

    def _batches(self, tokens: Tokens) -> tuple[torch.Tensor, ...]:
        return tokens.ids.split(default_batch_size(self.model, tokens.ids.shape[1]))


def passes(part: str, to_layer: float, whole: float) -> float:
    """The time of the passes that a part needs.

    Evaluation runs twice to the layer, for the mean and for the activations of other sequences;
    once to the end; and from the layer to the end with the estimate and with each of three
    ablations.
    """
    return 2 * to_layer + whole + 4 * (whole - to_layer) if part == "evaluate" else to_layer


def ratios(subject: Subject, lengths: list[int], n_tokens: list[int], parts: list[str]) -> Table:
    """Each part over the passes that it needs."""
    table = Table("One thread", ("block", "tokens", "what", "CPU s", "passes, CPU s", "ratio"))
    for length in lengths:
        for n in n_tokens:
            tokens = tokens_of(n, length)
            subject.to_layer(tokens_of(1, length))  # what torch sets up in a first pass
            for part in parts:
                attention._AGREES.clear()  # no row profits from the trials of another
                taken = cpu_seconds(getattr(subject, part), tokens)
                to_layer = cpu_seconds(subject.to_layer, tokens)
                whole = cpu_seconds(subject.whole, tokens) if part == "evaluate" else 0.0
                bare = passes(part, to_layer, whole)
                figures = map(digits, (taken, bare, taken / bare))
                table.add(f"{length:,}", f"{tokens.ids.numel():,}", part, *figures)
    return table


def memory(name: str) -> int:
    """A figure of this process's memory, in bytes, by its name in Linux: VmRSS now, VmHWM at most
    since the peak was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def peaks(lengths: list[int], parts: list[str]) -> Table:
    """The peak of memory of each part on one block, above that of the loaded model."""
    table = Table("One block", ("tokens", "what", "MB above the model"))
    for length in lengths:
        for part in parts:
            run = [sys.executable, "-m", "benchmarks.harvest", "--one", part, str(length)]
            said = subprocess.run(run, check=True, capture_output=True, text=True).stdout
            table.add(f"{length:,}", part, f"{int(said.split()[-1]) / 1e6:,.0f}")
    return table


def peak(part: str, length: int, folder: Path) -> int:
    """The peak of memory of a part on one block, above that of the loaded model, in bytes."""
    subject, tokens = Subject(folder), tokens_of(length, length)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the loading
    before = memory("VmRSS")
    getattr(subject, part)(tokens)
    return memory("VmHWM") - before


def measured(args: argparse.Namespace, folder: Path) -> Section:
    """The section that the arguments ask for."""
    began, revision = time.monotonic(), code_revision()
    if args.memory:
        title, text, table = MEMORY, ON_MEMORY, peaks(args.lengths, args.parts)
    else:
        subject = Subject(folder)
        title, text = TIMES, ON_TIMES
        table = ratios(subject, args.lengths, args.tokens, args.parts)
    foot = (
        f"Measured in {(time.monotonic() - began) / 60:.1f} minutes, at revision {revision}, on "
        f"{machine.described()}."
    )
    return Section(title, "\n\n".join([text, table.markdown(), foot]))


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 1024])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2000, 16_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="write no page")
    parser.add_argument("--one", nargs=2, metavar=("PART", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        if args.one:
            print(peak(args.one[0], int(args.one[1]), Path(folder)))
            return
        section = measured(args, Path(folder))
    Console().print(Markdown(section.markdown()))
    if not args.quick:
        renew(PAGE, HEAD, section, [TIMES, MEMORY])


if __name__ == "__main__":
    main()
