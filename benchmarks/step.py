"""One training step in units of its one dense encoder product, measured side by side.

    python -m benchmarks.step [--threads 2] [--width 512] [--features 8192] [--batch 4096]

A product and a step are timed in turn, so that a busy machine slows both. The ReLU rows show
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
from dictlearn.core.config import GradientConfig
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries import sae
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units


def seconds(function: Callable[[], object]) -> float:
    """The time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def ratio(step: Callable[[], object], product: Callable[[], object], repeats: int = 7) -> float:
    """Median over `repeats` of step time over product time, each pair measured back to back."""
    step()
    return median(seconds(step) / seconds(product) for _ in range(repeats))


def learner(config: GradientConfig, x: torch.Tensor) -> GradientLearner:
    """A learner on rows `x` whose parameters barely move, so that every step costs the same."""
    site = Site("x", x.shape[1])
    units = Units(torch.zeros(site.d), torch.ones(()))
    run = FitConfig(steps=10_000, batch_size=len(x), learning_rate=1e-9)
    return GradientLearner(
        config, Sites(site, site), run, Standardization(units, units), lambda step: Batch(x, x)
    )


def sparser(training: GradientLearner, x: torch.Tensor, l0: float) -> GradientLearner:
    """The same learner with a bias that leaves about `l0` features active in a row."""
    dictionary = training.dictionary
    assert isinstance(dictionary, sae.SAE)
    with torch.no_grad():
        scores = dictionary._pre(x[:64]).flatten()
        rank = int(scores.numel() * (1 - l0 / dictionary.n_features))
        dictionary.b_enc -= scores.kthvalue(rank).values
    return training


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("threads", 2), ("width", 512), ("features", 8192), ("batch", 4096)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    x = torch.randn(args.batch, args.width, generator=torch.Generator().manual_seed(0))
    n = args.features
    table = Table("step", "products", title=f"width {args.width}, batch {args.batch}")
    configs: dict[str, GradientConfig] = {
        "topk_sae k = 32": TopKSAEConfig(n_features=n, k=32),
        "batchtopk_sae k = 32": BatchTopKSAEConfig(n_features=n, k=32),
        "codebook k = 8": CodebookConfig(n_codes=n, k=8),
    }
    W = torch.randn(args.width, n)
    for name, config in configs.items():
        training = learner(config, x)
        table.add_row(name, f"{ratio(lambda t=training: t.update(Batch(x, x)), lambda: x @ W):.2f}")
    for l0 in (50, 200, 800, 4000):
        for way, below in (("entries", 1.1), ("dense", 0.0)):
            sae.SPARSE_BELOW = below
            training = sparser(learner(SAEConfig(n_features=n), x), x, l0)
            cost = ratio(lambda t=training: t.update(Batch(x, x)), lambda: x @ W)
            table.add_row(f"sae at L0 {l0}, {way}", f"{cost:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
