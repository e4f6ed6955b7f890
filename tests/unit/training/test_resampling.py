"""Neuron resampling exactly as published (Bricken et al. 2023)."""

import pytest
import torch
from scipy.stats import chisquare

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Batch
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.resampling import draw_rows
from dictlearn.training.standardize import Standardization, fit_units

SITE = Site("h", 6)


def learner(steps=(3,), window=2):
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    config = SAEConfig(
        n_features=8, resample_steps=steps, resample_window=window, resample_rows=256
    )
    units = fit_units(SITE, [x])
    return GradientLearner(
        config,
        Sites(SITE, SITE),
        FitConfig(steps=10, batch_size=256, standardize_rows=256),
        Standardization(units, units),
        lambda step: Batch(x, x),
    ), Batch(x, x)


def test_rows_are_drawn_in_proportion_to_squared_loss():
    residual = torch.sqrt(torch.tensor([1.0, 2.0, 3.0, 0.0])).unsqueeze(1)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_rows(residual, 2.0, 1, generator) for _ in range(6000)]).flatten()
    counts = torch.bincount(draws, minlength=4)
    expected = torch.tensor([1.0, 4.0, 9.0]) / 14 * 6000
    assert counts[3] == 0
    assert chisquare(counts[:3].numpy(), expected.double().numpy()).pvalue > 1e-3


def test_rows_are_drawn_without_replacement_while_there_are_enough():
    residual = torch.ones(5, 1)
    generator = torch.Generator().manual_seed(0)
    assert sorted(draw_rows(residual, 2.0, 5, generator).tolist()) == [0, 1, 2, 3, 4]
    assert len(draw_rows(residual, 2.0, 9, generator)) == 9


def test_a_dead_feature_is_resampled_as_published():
    training, batch = learner()
    sae = training.dictionary
    with torch.no_grad():
        sae.b_enc[5] = -100.0
    for _ in range(2):
        training.update(batch)
    alive = torch.tensor([i for i in range(8) if i != 5])
    before = training._optimizer.state[sae.W_enc]["exp_avg"].clone()
    training.update(batch)
    norms = sae.W_enc.norm(dim=0)
    assert norms[5].item() == pytest.approx(0.2 * norms[alive].mean().item(), rel=1e-5)
    assert sae.b_enc[5] == 0
    torch.testing.assert_close(sae.W_dec[5], sae.W_enc[:, 5] / norms[5])
    z = sae.fit_pass(batch).z
    cosine = torch.nn.functional.normalize(z, dim=1) @ sae.W_dec[5]
    assert cosine.max().item() == pytest.approx(1.0, abs=1e-5), "the direction is an input's"
    state = training._optimizer.state
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not state[sae.W_enc][moment][:, 5].any()
        assert not state[sae.W_dec][moment][5].any()
        assert state[sae.b_enc][moment][5] == 0
    assert before[:, alive].any()
    for parameter, axis in ((sae.W_enc, 1), (sae.W_dec, 0)):
        kept = state[parameter]["exp_avg_sq"].index_select(axis, alive)
        assert (kept > 0).all(), "the others keep every one of their moments"


def test_units_have_unit_variance_per_dimension():
    x = 7 * torch.randn(1000, 6) + 5
    units = fit_units(SITE, x.split(100))
    z = (x - units.mean) / units.scale
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    assert z.pow(2).mean().item() == pytest.approx(1.0, rel=1e-4)
    constant = fit_units(SITE, [torch.full((10, 6), 3.0)])
    assert constant.scale == 1.0


def test_units_agree_for_a_stream_and_its_rows():
    x = torch.randn(64, 6)
    stream = TensorActivations(x)
    first = [stream.rows(0, step, 16).at["x"] for step in range(4)]
    torch.testing.assert_close(fit_units(SITE, first).mean, x.mean(dim=0))
