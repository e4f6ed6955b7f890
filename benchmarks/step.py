"""One training step in units of its one dense encoder product, measured side by side.

    python -m benchmarks.step [--threads 2] [--width 512] [--features 8192] [--batch 4096]

A product and a step are timed in turn, so that a busy machine slows both; with one thread, the
processor's time is taken, which other programs change less. The last rows show where touching only
active entries stops paying (`ElementwiseRule.sparse_below`).
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
from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.elementwise import ElementwiseRule
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.residual_codebook import ResidualCodebookConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.kernels import fastest
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units


def seconds(function: Callable[[], object]) -> float:
    """The time of one call: with one thread the processor's, else that of the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


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
    assert isinstance(dictionary.rule, ElementwiseRule)
    bounds = dictionary.rule.bounds(dictionary)
    with torch.no_grad():
        scores = dictionary.all_scores(x[:64]) - (0.0 if bounds is None else bounds)
        rank = int(scores.numel() * (1 - l0 / dictionary.n_features))
        dictionary.b_enc.sub_(scores.flatten().kthvalue(rank).values)
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
    stages = ResidualCodebookConfig(n_codes=2048, n_stages=8)
    n_of_stages = stages.n_codes * stages.n_stages
    products = {m: torch.randn(args.width, m) for m in (n, 10_000, n_of_stages)}
    table = Table(
        "step", "products", "least to most", title=f"width {args.width}, batch {args.batch}"
    )

    def measure(name: str, training: GradientLearner) -> None:
        W = products[training.dictionary.n_features]
        found = ratios(lambda: training.update(Batch(x, x)), lambda: x @ W, args.repeats)
        table.add_row(name, f"{median(found):.2f}", f"{min(found):.2f} to {max(found):.2f}")

    topk, codes = TopKSAEConfig(n_features=n, k=32), CodebookConfig(n_codes=10_000, k=8)
    for searched in (False, True)[
        : 1 + fastest.timings().int8_search_pays()
    ]:  # where it is not refused
        note = ", int8 search" * searched
        measure(f"topk_sae k = 32{note}", learner(topk, x, int8_search=searched))
        measure(f"codebook k = 8 of 10,000{note}", learner(codes, x, int8_search=searched))
    measure("batchtopk_sae k = 32", learner(BatchTopKSAEConfig(n_features=n, k=32), x))
    measure("residual_codebook, 8 stages of 2,048, in products of all", learner(stages, x))
    kinds = (SAEConfig, JumpReLUSAEConfig, GatedSAEConfig)
    relu, jumprelu, gated = (kind(n_features=n) for kind in kinds)
    skipping = JumpReLUTranscoderConfig(n_features=n, linear_skip=True)
    for kind in (relu, TranscoderConfig(n_features=n), jumprelu, skipping, gated):
        measure(f"{kind.kind} at L0 50", at_l0(learner(kind, x), x, 50))
    for kind in (relu, jumprelu, gated):
        for l0 in (n // 20, n // 8, n // 4):
            for way, below in (("entries", 1.1), ("dense", 0.0)):
                ElementwiseRule.sparse_below = below
                measure(f"{kind.kind} at L0 {l0}, {way}", at_l0(learner(kind, x), x, l0))
    Console().print(table)


if __name__ == "__main__":
    main()
