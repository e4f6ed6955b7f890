"""Memory of a training step, counted by the allocations that the profiler sees."""

import json
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from dictlearn.core.batches import Batch
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units


def test_a_dense_step_holds_three_matrices_of_coefficients_and_the_gradients(tmp_path):
    """The coefficients, and their gradients of the two terms of the loss; no fourth at any time."""
    n, d, n_features = 2048, 32, 2048
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    batch, site = Batch(x, x), Site("h", d)
    same = Units(torch.zeros(d), torch.ones(()))
    learner = GradientLearner(
        SAEConfig(n_features=n_features), Sites(site, site), FitConfig(steps=10, batch_size=n),
        Standardization(same, same), lambda step: batch,
    )  # fmt: skip
    learner.update(batch)  # Adam's moments are there from the first step on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        learner.update(batch)
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peak = max(accumulate(n_bytes for _, n_bytes in changes))
    acts, weights = 4 * n * n_features, 4 * d * n_features
    assert 3 * acts <= peak < 3.1 * acts + 2 * weights
