"""Memory of a training step, counted by the allocations that the profiler sees."""

import json
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dictlearn.core.batches import Batch
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.crosscoder import CrosscoderConfig
from dictlearn.dictionaries.directions import remove_radial_gradient_
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units


@pytest.mark.parametrize("kind", [SAEConfig, TranscoderConfig, CrosscoderConfig])
def test_a_dense_step_holds_the_coefficients_once_and_the_gradients(kind, tmp_path, monkeypatch):
    """The gradient in the coefficients is there a tile at a time, and in no term of the loss."""
    n, d, n_features, tile = 2048, 16, 4096, 128
    monkeypatch.setattr("dictlearn.kernels.relu._TILE", tile * n_features)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    batch, site = Batch(x, x), Site("h", d)
    same = Units(torch.zeros(d), torch.ones(()))
    learner = GradientLearner(
        kind(n_features=n_features), Sites(site, site), FitConfig(steps=10, batch_size=n),
        Standardization(same, same), lambda step: batch,
    )  # fmt: skip
    learner.update(batch)  # Adam's moments are there from the first step on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        log = learner.update(batch)
    assert log["l0"] > 0.4 * n_features
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peak = max(accumulate(n_bytes for _, n_bytes in changes))
    acts, weights = 4 * n * n_features, 4 * d * n_features
    mask = n_features * tile  # which entries of a tile are 0
    assert acts <= peak < acts + 4 * n_features * tile + mask + 2 * weights + 0.05 * acts


def test_the_radial_gradient_is_removed_without_a_matrix_of_products():
    W = torch.nn.Parameter(torch.randn(500, 40))
    W.grad = torch.randn(500, 40)
    with torch.no_grad(), profile(profile_memory=True) as profiler:
        remove_radial_gradient_(W)
    assert max(e.self_cpu_memory_usage for e in profiler.events()) < 10 * 500 * 4
