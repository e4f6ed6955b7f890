"""One training step in units of its one dense encoder product, measured side by side.

    python -m benchmarks.step [--threads 2] [--width 512] [--features 8192] [--batch 4096]

A product and a step are timed in turn, so that a busy machine slows both. The last rows show
where touching only active entries stops paying (`dictionaries.sae.SPARSE_BELOW`).
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from dictlearn.core.batches import Batch
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries import sae
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.kernels.processor import multiplies_int8
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units


def seconds(function: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratios(step: Callable[[], object], product: Callable[[], object], repeats: int) -> list[float]:
    """Step time over product time, each pair measured back to back."""
    step()
    return [seconds(step) / seconds(product) for _ in range(repeats)]


def learner(
    config: GradientConfig, x: torch.Tensor, *, int8_search: bool = False
) -> GradientLearner:
    """A learner on rows `x` whose parameters barely move, so that every step costs the same."""
    site = Site("x", x.shape[1])
    units = Units(torch.zeros(site.d), torch.ones(()))
    run = FitConfig(steps=10_000, batch_size=len(x), learning_rate=1e-9, int8_search=int8_search)
    return GradientLearner(
        config, Sites(site, site), run, Standardization(units, units), lambda step: Batch(x, x)
    )


def at_l0(training: GradientLearner, x: torch.Tensor, l0: float) -> GradientLearner:
    """The same learner with a bias that leaves about `l0` features active in a row."""
    dictionary = training.dictionary
    assert isinstance(dictionary, LinearDictionary)
    with torch.no_grad():
        scores = dictionary.all_scores(x[:64]).flatten()
        rank = int(scores.numel() * (1 - l0 / dictionary.n_features))
        dictionary.b_enc -= scores.kthvalue(rank).values
    return training


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"threads": 2, "width": 512, "features": 8192, "batch": 4096, "repeats": 9}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randn(args.batch, args.width, generator=torch.Generator().manual_seed(0))
    n = args.features
    products = {m: torch.randn(args.width, m) for m in (n, 10_000)}
    table = Table(
        "step", "products", "least to most", title=f"width {args.width}, batch {args.batch}"
    )

    def measure(name: str, training: GradientLearner) -> None:
        W = products[training.dictionary.n_features]
        found = ratios(lambda: training.update(Batch(x, x)), lambda: x @ W, args.repeats)
        table.add_row(name, f"{median(found):.2f}", f"{min(found):.2f} to {max(found):.2f}")

    topk, codes = TopKSAEConfig(n_features=n, k=32), CodebookConfig(n_codes=10_000, k=8)
    for searched in (False, True)[: 1 + multiplies_int8()]:  # where it is not refused
        note = ", int8 search" * searched
        measure(f"topk_sae k = 32{note}", learner(topk, x, int8_search=searched))
        measure(f"codebook k = 8 of 10,000{note}", learner(codes, x, int8_search=searched))
    measure("batchtopk_sae k = 32", learner(BatchTopKSAEConfig(n_features=n, k=32), x))
    for kind in (SAEConfig(n_features=n), TranscoderConfig(n_features=n)):
        measure(f"{kind.kind} at L0 50", at_l0(learner(kind, x), x, 50))
    for l0 in (n // 20, n // 8, n // 4):
        for way, below in (("entries", 1.1), ("dense", 0.0)):
            sae.SPARSE_BELOW = below
            measure(f"sae at L0 {l0}, {way}", at_l0(learner(SAEConfig(n_features=n), x), x, l0))
    Console().print(table)


if __name__ == "__main__":
    main()
