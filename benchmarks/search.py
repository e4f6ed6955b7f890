"""Searches for the codes of a codebook side by side: their speed and recall.

    python -m benchmarks.search [--threads 2] [--quick]

About two minutes; writes docs/results/search.md. `--quick` shows that everything runs, and
writes nothing.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import dictlearn._threads  # noqa: F401  (before torch)

import torch  # isort: skip
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from benchmarks.peers import machine
from benchmarks.peers.measure import digits, in_turn, seconds
from benchmarks.peers.page import Section, Table, page
from dictlearn.core.provenance import code_revision
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.codebook import Codebook, CodebookConfig
from dictlearn.dictionaries.indexed import CodeIndex, FlatIndex, IVFIndex, faiss, indexed

PAGE = Path("docs/results/search.md")
OURS = "dictlearn, exact"
INDICES: dict[str, CodeIndex] = {
    "FAISS flat": FlatIndex(),
    "FAISS IVF, 8 cells searched": IVFIndex(n_probes=8),
    "FAISS IVF, 32 cells searched": IVFIndex(n_probes=32),
}


@dataclass(frozen=True)
class Case:
    """The size of a codebook, and the number of inputs."""

    n_groups: int
    n_codes: int
    d: int
    k: int
    n: int

    def __str__(self) -> str:
        groups = f"{self.n_groups} groups of " if self.n_groups > 1 else ""
        return f"{groups}{self.n_codes:,} codes of width {self.d}, k = {self.k}, {self.n:,} tokens"


CASES = (
    Case(n_groups=12, n_codes=200, d=64, k=1, n=512),
    Case(n_groups=12, n_codes=1_000, d=64, k=1, n=4096),
    Case(n_groups=12, n_codes=1_000, d=64, k=8, n=4096),
    Case(n_groups=1, n_codes=10_000, d=512, k=8, n=4096),
    Case(n_groups=1, n_codes=100_000, d=512, k=8, n=1024),
)
QUICK = (
    Case(n_groups=3, n_codes=40, d=8, k=2, n=64),
    Case(n_groups=1, n_codes=200, d=8, k=8, n=64),
)


def gaussian(case: Case) -> tuple[Tensor, Tensor]:
    """Independent Gaussian codes `[group, code, d]` and inputs `[n, group, d]`."""
    make = torch.Generator().manual_seed(0)
    codes = torch.randn(case.n_groups, case.n_codes, case.d, generator=make)
    return codes, torch.randn(case.n, case.n_groups, case.d, generator=make)


def clustered(case: Case) -> tuple[Tensor, Tensor]:
    """Codes around a tenth as many centres, and inputs around codes, at half the centres' scale."""
    noise, x = gaussian(case)
    make = torch.Generator().manual_seed(1)
    centres = torch.randn(case.n_groups, max(1, case.n_codes // 10), case.d, generator=make)
    nearest = torch.randint(centres.shape[1], noise.shape[:2], generator=make)
    groups = torch.arange(case.n_groups)
    codes = centres[groups.unsqueeze(1), nearest] + noise / 2
    chosen = torch.randint(case.n_codes, x.shape[:2], generator=make)
    return codes, codes[groups, chosen] + x / 2


ROWS: dict[str, Callable[[Case], tuple[Tensor, Tensor]]] = {
    "clustered": clustered,
    "Gaussian": gaussian,
}


def built(case: Case, codes: Tensor) -> Codebook:
    """A codebook with these codes and the default similarity, the cosine."""
    site = Site("x", case.n_groups * case.d)
    config = CodebookConfig(n_codes=case.n_codes, k=case.k, n_groups=case.n_groups)
    codebook = config.build(Sites(site, site), seed=0)
    with torch.no_grad():
        codebook.codes.copy_(codes)
    return codebook


def product_and_top_k(codebook: Codebook, z: Tensor) -> Tensor:
    """The codes chosen from one batched product of inputs and codes of all groups."""
    weights = torch.stack([codebook.similarity(codes)[0].T for codes in codebook.codes])
    scores = torch.bmm(codebook._chunks(z), weights.transpose(1, 2))
    best = scores.max(dim=2, keepdim=True) if codebook.k == 1 else scores.topk(codebook.k, dim=2)
    first = torch.arange(codebook.n_groups).view(-1, 1, 1) * codebook.n_codes
    return (best[1] + first).transpose(0, 1).flatten(1)


def recall(found: Tensor, exact: Tensor) -> float:
    """The fraction of the features `exact` of each row that are among those `found` for it."""
    found, exact = found.sort(dim=1).values, exact.contiguous()
    places = torch.searchsorted(found, exact).clamp_max(found.shape[1] - 1)
    return (found.gather(1, places) == exact).float().mean().item()


@torch.no_grad()
def compared(case: Case, rows: str, rounds: int) -> Table:
    """Every search on the same codes and inputs, in turn."""
    codes, x = ROWS[rows](case)
    z, codebook = x.flatten(1), built(case, codes)
    searches: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: codebook._chosen(z),
        "one product, then top-k": lambda: product_and_top_k(codebook, z),
    }
    took: dict[str, float] = {}
    for name, index in INDICES.items():
        copies: list[Codebook] = []
        took[name] = seconds(lambda made=copies, kind=index: made.append(indexed(codebook, kind)))
        searches[name] = lambda made=copies: made[0]._chosen(z)
    timings = in_turn(searches, rounds=rounds)
    exact = searches[OURS]()
    table = Table(
        f"{case}, {rows}",
        ("search", "tokens / s", "time / dictlearn's", "recall", "index built in, s"),
    )
    faster = []
    for name, search in searches.items():
        ratio = timings[name].times(timings[OURS])
        faster += [name] if ratio.high < 1 else []
        table.add(
            name,
            digits(case.n / median(timings[name].seconds)),
            "1" if name == OURS else str(ratio),
            f"{recall(search(), exact):.4f}",
            digits(took[name]) if name in took else "—",
        )
    table.notes.append(f"faster than dictlearn's in every round: {'; '.join(faster) or 'none'}")
    return table


def head(threads: int, minutes: float, revision: str | None) -> str:
    """What was measured, how, and on which machine."""
    return f"""# Searches for codes: exact and approximate

Written by `python -m benchmarks.search`. A search finds, for each token, the k codes of each group
with the largest cosine similarity. Searches have their turns within every round; shown are
medians, with the range over rounds in brackets.

* **dictlearn, exact**: the search of every codebook: group after group, a product in tiles, each
  searched by a compiled loop. Where products in bfloat16 or int8 are faster, wide codes are
  compared with those first, and bounds of their errors keep the search exact.
* **one product, then top-k**: a batched product over all groups, then `topk` (`max` at k = 1).
* **FAISS**: `indexed(codebook, …)`, with the check that the codes are those of the index. IVF has
  as many cells as the square root of the number of codes; if it searches all of them, it is exact.

Recall is the fraction of the codes of dictlearn's search that are found. Gaussian codes and tokens
have no structure that an index could use. Clustered ones are nearer to those of a trained
codebook: codes lie around a tenth as many centres, and each token near a code.

* machine: {machine.described()}
* threads: {threads}, of torch and of FAISS
* versions: {machine.versions()}, faiss-cpu {faiss().__version__}
* measured in {minutes:.1f} minutes, at revision {revision}
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke test, which writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began, revision = time.monotonic(), code_revision()
    sections = []
    for rows in ROWS:
        tables = []
        for case in QUICK if args.quick else CASES:
            tables.append(compared(case, rows, rounds=3 if case.n_codes > 1_000 else 9).markdown())
            Console().print(Markdown(tables[-1]))
        sections.append(
            Section(f"{rows[0].upper()}{rows[1:]} codes and tokens", "\n\n".join(tables))
        )
    if not args.quick:
        minutes = (time.monotonic() - began) / 60
        PAGE.write_text(page(head(args.threads, minutes, revision), sections), encoding="utf-8")


if __name__ == "__main__":
    main()
