"""Dense and sparse steps of rules that treat each score by itself, in float64."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dictlearn.core.batches import Batch
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.elementwise import ElementwiseRule
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.jumprelu_transcoder import JumpReLUTranscoderConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.standardize import Standardization, Units

D, N_FEATURES = 4, 12
CONFIGS = [
    SAEConfig(n_features=N_FEATURES, l1_coefficient=0.1),
    TranscoderConfig(n_features=N_FEATURES, l1_coefficient=0.1),
    JumpReLUSAEConfig(n_features=N_FEATURES, l0_coefficient=0.1),
    JumpReLUTranscoderConfig(n_features=N_FEATURES, l0_coefficient=0.1, linear_skip=True),
    GatedSAEConfig(n_features=N_FEATURES, l1_coefficient=0.1),
]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)


def rows(n=20, d=D, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sites(d=D):
    return Sites(Site("x", d), Site("y", d))


def batch_for(config, x):
    """A batch with `x` as source, and as target where the dictionary is an autoencoder."""
    same = config.sites(sites()).is_autoencoder
    return Batch(x, x if same else rows(*x.shape, seed=9, dtype=x.dtype))


def perturbed(config):
    """A dictionary in float64 without parameters that are zero or equal to each other."""
    dictionary = config.build(config.sites(sites())).double()
    make = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=make, dtype=torch.float64)
    return dictionary


def learner_on(config, batch, run):
    pair = config.sites(sites(batch.x.shape[1]))
    same = Units(torch.zeros(pair.source.d), torch.ones(()))
    return GradientLearner(config, pair, run, Standardization(same, same), lambda step: batch)


@each_config
def test_the_switch_from_dense_to_sparse_changes_no_gradient(config, monkeypatch):
    """Neither of parameters nor of rows, which have one in training with the model."""
    dictionary, x = perturbed(config), rows().requires_grad_()
    found = []
    for below in (0.0, 1.1):
        monkeypatch.setattr(ElementwiseRule, "sparse_below", below)
        fit_pass = dictionary.fit_pass(batch_for(config, x))
        assert isinstance(fit_pass.acts, SparseActs) == (below > 1)
        losses = config.objective()(fit_pass)
        gradients = torch.autograd.grad(sum(losses.values()), [x, *dictionary.parameters()])
        found.append((losses, fit_pass.firing_counts(), gradients))
    torch.testing.assert_close(*found)


@each_config
def test_dense_and_sparse_steps_have_equal_losses(config, monkeypatch):
    batch = batch_for(config, rows(64))
    run = FitConfig(steps=25, batch_size=64, dtype="float64", learning_rate=0.02)
    logs = []
    for below in (0.0, 1.1):
        monkeypatch.setattr(ElementwiseRule, "sparse_below", below)
        learner = learner_on(config, batch, run)
        logs.append([learner.update(batch) for _ in range(run.steps)])
    assert logs[0][-1]["loss"] < logs[0][0]["loss"]
    torch.testing.assert_close(*logs, rtol=1e-10, atol=1e-12)


@each_config
def test_a_sparse_step_makes_no_matrix_of_scores(config, monkeypatch):
    n, n_features = 1024, 2048
    monkeypatch.setattr("dictlearn.kernels.tiles._TILE", 128 * n_features)
    config = type(config).from_dict({**config.to_dict(), "n_features": n_features})
    batch = batch_for(config, rows(n, 16, dtype=torch.float32))
    learner = learner_on(config, batch, FitConfig(steps=10, batch_size=n))
    leave_active_(learner.dictionary, batch.x[:64], 0.03)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        log = learner.update(batch)
    assert 0.01 * n_features < log["l0"] < 0.05 * n_features
    assert max(e.self_cpu_memory_usage for e in profiler.events()) < 4 * n * n_features / 2


@torch.no_grad()
def leave_active_(dictionary, x, fraction):
    """Lower the biases until about a fraction of the features is active in a row."""
    above = dictionary.all_scores(x)
    bounds = dictionary.rule.bounds(dictionary)
    above -= 0 if bounds is None else bounds
    dictionary.b_enc -= above.flatten().quantile(1 - fraction)


@each_config
def test_sparse_coefficients_have_no_zeros(config):
    """Neither where a magnitude is negative behind an open gate, nor around a threshold."""
    dictionary, x = perturbed(config), rows(200)
    active = dictionary.encode(x) != 0
    opened = dictionary.scores(x, torch.arange(N_FEATURES)) > 0
    assert 0 < active.sum() <= opened.sum()
    assert torch.equal(dictionary.encode_sparse(x).l0(), active.sum(dim=1))
