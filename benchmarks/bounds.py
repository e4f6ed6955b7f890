"""From which sizes on searches by bounds take less time than those by all scores.

    python -m benchmarks.bounds [--threads 2] [--quick]

A few minutes. Gaussian rows and features; searches have their turns within every round. The sizes
that `dictlearn.kernels.fastest` asks for (`SIZES`) rest on this table, measured on both kinds of
processor: put the variables of `make peers-avx2` before the command to cap instructions.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import dictlearn._threads  # noqa: F401  (before torch)

import torch  # isort: skip
from rich.console import Console
from rich.table import Table

from benchmarks.peers import machine
from benchmarks.peers.measure import digits, in_turn
from dictlearn.kernels import fastest
from dictlearn.kernels.bounded import dense_top_k

ALL = "by all scores"


class Case(NamedTuple):
    """The size of one search."""

    rows: int
    width: int
    features: int
    k: int


WEIGHTS = [
    Case(2048, width, n, 8)
    for width in (128, 256, 512, 768, 1024)
    for n in (1024, 2048, 4096, 8192, 16_384)
]
CHOSEN = [Case(2048, width, 8192, k) for width in (512, 768) for k in (32, 64, 128, 256)]
ROWS = [Case(rows, 512, 8192, 32) for rows in (128, 256, 512, 1024, 4096)]


def searches(case: Case) -> dict[str, Callable[[], object]]:
    """The search by all scores, and the others that this processor has."""
    make = torch.Generator().manual_seed(0)
    x = torch.randn(case.rows, case.width, generator=make)
    W = torch.randn(case.features, case.width, generator=make).T
    kinds = {ALL: dense_top_k, **fastest.searches()}
    given = x, W, torch.zeros(case.features), case.k
    return {name: partial(search, *given) for name, search in kinds.items()}


def bounds_are_used(case: Case) -> bool:
    """Whether a search of this size is one by bounds, if the processor has a product that pays."""
    x, W = torch.empty(case.rows, case.width), torch.empty(case.width, case.features)
    return fastest.rounding(x, W, case.k) is not None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke test of three small searches")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cases = [Case(64, 16, 128, 4)] * 3 if args.quick else [*WEIGHTS, *CHOSEN, *ROWS]
    names = [*searches(cases[0])]
    title = f"{machine.described()}; {args.threads} threads; time over that by all scores"
    table = Table(*Case._fields, "ms, all scores", *names[1:], "bounds used", title=title)
    for case in cases:
        timings = in_turn(searches(case), rounds=3 if args.quick else 9)
        plain = timings[ALL]
        table.add_row(
            *(f"{size:,}" for size in case),
            digits(1e3 * min(plain.seconds)),
            *(f"{timings[name].times(plain).median:.2f}" for name in names[1:]),
            "yes" if bounds_are_used(case) else "no",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
