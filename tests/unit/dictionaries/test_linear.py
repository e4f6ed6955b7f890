"""How linear kinds start: with what data says, before the first step."""

import pytest
import torch
from torch.nn.functional import normalize

import dictlearn as dl
from dictlearn.core.batches import Batch
from dictlearn.core.learning import TrainableDictionary

SITES = dl.Sites(dl.Site("x", 16), dl.Site("y", 16))
AUTOENCODERS = [
    dl.SAEConfig(n_features=64),
    dl.TopKSAEConfig(n_features=64, k=8),
    dl.BatchTopKSAEConfig(n_features=64, k=8),
    dl.GatedSAEConfig(n_features=64),
]
TRANSCODERS = [
    dl.TranscoderConfig(n_features=64),
    dl.TopKTranscoderConfig(n_features=64, k=8),
]


def started(config: dl.DictionaryConfig) -> tuple[TrainableDictionary, torch.Tensor, torch.Tensor]:
    """A fresh dictionary after its start from data, and the rows that it started from."""
    dictionary = config.build(config.sites(SITES), seed=0)
    assert isinstance(dictionary, TrainableDictionary)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(512, 16, generator=generator)
    t = z if config in AUTOENCODERS else (z @ torch.randn(16, 16, generator=generator)).relu() - 1
    dictionary.initialize_(z, t)
    return dictionary, z, t


@pytest.mark.parametrize("config", [*AUTOENCODERS, *TRANSCODERS], ids=lambda c: c.kind)
def test_no_other_strength_explains_the_first_rows_better(config):
    """The error is at its minimum over scales: it is orthogonal to the estimate."""
    dictionary, z, t = started(config)
    with torch.no_grad():
        y = dictionary.fit_pass(Batch(z, t)).t_hat
    assert y.abs().sum() > 0
    assert float((y * (t - y)).sum() / (y * y).sum()) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("config", AUTOENCODERS, ids=lambda c: c.kind)
def test_an_autoencoder_writes_what_it_reads(config):
    dictionary, _, _ = started(config)
    fresh = config.build(config.sites(SITES), seed=0)
    assert torch.equal(dictionary.W_dec, fresh.W_dec)
    torch.testing.assert_close(normalize(dictionary.W_enc.T, dim=1), dictionary.W_dec)


@pytest.mark.parametrize("config", TRANSCODERS, ids=lambda c: c.kind)
def test_a_transcoder_writes_the_mean_target_of_where_it_is_active(config):
    dictionary, z, t = started(config)
    fresh = config.build(SITES, seed=0)
    written = fresh.encode(z).T @ t
    assert (written.norm(dim=1) > 0).all()
    torch.testing.assert_close(
        dictionary.W_dec.detach(), normalize(written, dim=1), atol=1e-5, rtol=0
    )


def test_a_feature_that_is_never_active_keeps_its_random_direction():
    config = dl.TopKTranscoderConfig(n_features=64, k=1)
    dictionary, fresh = (config.build(SITES, seed=0) for _ in range(2))
    z = torch.ones(4, 16)
    dictionary.initialize_(z, torch.ones(4, 16))
    (active,) = (fresh.encode(z)[0].nonzero()[0].tolist(),)
    assert torch.equal(dictionary.W_dec.norm(dim=1).round(decimals=5), torch.ones(64))
    changed = (dictionary.W_dec != fresh.W_dec).any(dim=1).nonzero().flatten().tolist()
    assert changed == active


def test_the_decoder_takes_larger_steps():
    """The first step of Adam is its learning rate in every entry, whatever the gradient."""
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    run = dl.FitConfig(
        steps=1, batch_size=64, standardize_rows=64, learning_rate=1e-4, warmup_fraction=0.0,
        decay_fraction=0.0,
    )  # fmt: skip
    config = dl.SAEConfig(n_features=8, l1_coefficient=0.0)
    moved = dl.fit(config, x, run, progress=False).requires_grad_(False)
    start = config.build(config.sites(SITES), seed=0).requires_grad_(False)
    typical = float((moved.W_dec - start.W_dec).abs().mean())
    assert typical == pytest.approx(3e-4, rel=0.1), "three times the rate, but for unit norm"
    assert float(moved.b_enc.abs().max()) == pytest.approx(1e-4, rel=1e-3)
