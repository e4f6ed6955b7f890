"""Dictionaries of several hooks: crosscoders, cross-layer transcoders, one harvest for many."""

import pytest
import torch
from torch.nn.functional import mse_loss

import dictlearn as dl
from dictlearn.activations.live import LiveActivations
from dictlearn.activations.store import ActivationStore, write_store
from dictlearn.core.batches import Rows
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.provenance import Provenance
from dictlearn.dictionaries.crosscoder import decoder_norms
from dictlearn.metrics.reconstruction import fraction_variance_unexplained

LAYERS = 3
PAIRS = [
    dl.Sites(dl.Site(f"blocks.{i}.in", 6), dl.Site(f"blocks.{i}.out", 4 + i))
    for i in range(LAYERS)
]  # fmt: skip
RUN = dl.FitConfig(steps=60, batch_size=128, learning_rate=1e-2, standardize_rows=512)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Three layers that differ a thousandfold in scale; each output follows from all inputs."""
    generator = torch.Generator().manual_seed(0)
    at, read = {}, []
    for i, pair in enumerate(PAIRS):
        x = torch.randn(1500, 6, generator=generator)
        read.append(x)
        mixing = torch.randn(6 * (i + 1), 4 + i, generator=generator)
        at[pair.source.hook] = 10.0**i * x + i
        at[pair.target.hook] = 10.0 ** (i - 1) * (torch.cat(read, dim=1) @ mixing).relu() - i
    return Rows(at)


@pytest.fixture
def store(rows, tmp_path) -> ActivationStore:
    write_store(
        tmp_path / "store", [rows], sites=PAIRS, n_rows=1500, dtype=torch.float32,
        provenance=Provenance(), tokens={},
    )  # fmt: skip
    return ActivationStore.open(tmp_path / "store")


CONFIGS = {
    "crosscoder": dl.CrosscoderConfig(n_features=64, l1_coefficient=1e-3),
    "clt": dl.CrossLayerTranscoderConfig(n_features=32, l1_coefficient=1e-3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_several_hooks_are_learned_saved_and_keep_the_contract(name, store, rows, tmp_path):
    dictionary = dl.fit(CONFIGS[name], store, RUN, progress=False)
    assert dictionary.sites.target.hooks == tuple(pair.target.hook for pair in PAIRS)
    batch = rows.batch(dictionary.sites)
    results = dl.check_dictionary(dictionary, batch.x[:50])
    assert {check for check, found in results.items() if found != "passed"} == {
        "gradients", "seeds", "learning",
    }  # fmt: skip
    y_hat = dictionary(batch.x)
    for y, part in zip(*map(dictionary.sites.target.split, (batch.y, y_hat)), strict=True):
        assert fraction_variance_unexplained(y, part) < 0.5, "each layer, whatever its scale"
    loaded = dl.load(dl.save(dictionary, tmp_path / name))
    assert loaded.sites == dictionary.sites
    assert torch.equal(loaded(batch.x), y_hat)


def test_every_hook_has_units_of_its_own(store, rows):
    dictionary = dl.fit(CONFIGS["clt"], store, RUN, progress=False)
    z = dictionary._standardized(rows.joined(dictionary.sites.source))
    for part in dictionary.sites.source.split(z):
        assert float(part.var()) == pytest.approx(1, rel=0.1)
    assert dictionary.x_scale.shape == (18,)
    one = dl.fit(dl.SAEConfig(n_features=8), store.select(PAIRS[0]), RUN, progress=False)
    assert one.x_scale.shape == (), "files of one hook are as ever"


def test_one_harvest_trains_a_dictionary_for_each_layer(store):
    """In one pass, and to the bits that training each alone gives."""
    config = dl.TopKTranscoderConfig(n_features=32, k=4)
    at = {f"layer{i}": pair for i, pair in enumerate(PAIRS)}
    together = dl.fit(dict.fromkeys(at, config), store, RUN, sites=at, progress=False)
    for name, pair in at.items():
        alone = dl.fit(config, store.select(pair), RUN, progress=False)
        assert together[name].sites == pair
        assert torch.equal(together[name].W_dec, alone.W_dec)
    both = dl.fit({"sae": dl.SAEConfig(n_features=8), "clt": CONFIGS["clt"]}, store, RUN,
                  sites={"sae": PAIRS[1]}, progress=False)  # fmt: skip
    assert both["sae"].sites == PAIRS[1].at_target()
    assert len(both["clt"].sites.source.hooks) == LAYERS


def test_wrong_sites_are_refused(store):
    config = dl.SAEConfig(n_features=8)
    with pytest.raises(InputError, match=r"offer 3 sites .* sites="):
        dl.fit(config, store, RUN, progress=False)
    with pytest.raises(InputError, match=r"'sea', which no config has; did you mean 'sae'"):
        dl.fit({"sae": config}, store, RUN, sites={"sea": PAIRS[0]}, progress=False)
    elsewhere = dl.Sites(dl.Site("blocks.7.out", 4), dl.Site("blocks.7.out", 4))
    with pytest.raises(InputError, match=r"got 'blocks\.7\.out' of width 4; harvest it first"):
        dl.fit(config, store, RUN, sites=elsewhere, progress=False)
    unequal = dl.Sites(dl.Site.joined([p.source for p in PAIRS]), PAIRS[0].target)
    with pytest.raises(ConfigError, match="a source for each target"):
        dl.fit(CONFIGS["clt"], store, RUN, sites=unequal, progress=False)


@pytest.mark.untyped
def test_a_hook_is_no_sites(store):
    config = {"sae": dl.SAEConfig(n_features=8)}
    with pytest.raises(InputError, match="required Sites for 'sae'"):
        dl.fit(config, store, RUN, sites={"sae": "blocks.0.out"}, progress=False)


def test_live_streams_take_them_too(rows, store):
    blocks = torch.full((15,), 100)

    def read(parts):
        at = [torch.cat([torch.arange(100 * int(b), 100 * int(b) + 100) for b in p]) for p in parts]
        return [Rows({hook: x[i] for hook, x in rows.at.items()}) for i in at]

    live = LiveActivations(read, blocks, PAIRS, Provenance(), read_blocks=4)
    dictionary = dl.fit(CONFIGS["clt"], live, RUN, progress=False)
    assert dictionary.sites == dl.fit(CONFIGS["clt"], store, RUN, progress=False).sites


def test_a_cross_layer_transcoder_writes_no_earlier_layer():
    sites = CONFIGS["clt"].among(list(reversed(PAIRS)))
    assert sites.target.hooks == tuple(pair.target.hook for pair in PAIRS), "in order of layers"
    clt = CONFIGS["clt"].build(sites)
    starts = [0, 4, 9]
    for layer, start in enumerate(starts):
        own = clt.atoms[32 * layer : 32 * (layer + 1)]
        assert (own[:, :start] == 0).all()
        torch.testing.assert_close(own.norm(dim=1), torch.ones(32))
    assert clt.sources_of("blocks.1.out") == ("blocks.0.in", "blocks.1.in")
    assert sum(W.numel() for W in clt.W_dec) == 32 * (15 + 11 + 6)
    x = torch.randn(5, 18)
    changed = x.clone()
    changed[:, 12:] = 0.0  # the last layer's input
    before, after = (clt.sites.target.split(clt(rows)) for rows in (x, changed))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_a_crosscoder_pays_for_each_layers_decoder():
    """The loss by hand, dense and sparse, and its gradient, in float64."""
    sites = CONFIGS["crosscoder"].among(PAIRS)
    crosscoder = CONFIGS["crosscoder"].build(sites).double()
    x = torch.randn(40, sites.target.d, dtype=torch.float64)
    norms = decoder_norms(crosscoder)
    assert norms.shape == (64, LAYERS)
    torch.testing.assert_close(norms.square().sum(dim=1), torch.ones(64, dtype=torch.float64))
    objective = dl.CrosscoderConfig(n_features=64, l1_coefficient=0.7).objective()
    acts = crosscoder.encode(x)
    expected = mse_loss(crosscoder(x), x) + 0.7 * (acts @ norms.sum(dim=1)).mean()
    found = sum(objective(crosscoder.fit_pass(dl_batch(x))).values())
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, list(crosscoder.parameters())),
        torch.autograd.grad(expected, list(crosscoder.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def dl_batch(x):
    from dictlearn.core.batches import Batch

    return Batch(x, x)


def test_other_libraries_hold_one_hook(store, tmp_path):
    crosscoder = dl.fit(CONFIGS["crosscoder"], store, RUN, progress=False)
    with pytest.raises(InputError, match="dictionaries of one hook"):
        dl.save(crosscoder, tmp_path / "x", format="saelens")


def test_closed_forms_on_several_hooks(store, rows):
    every = dl.Site.joined([pair.target for pair in PAIRS])
    configs = {"pca": dl.PCAConfig(k=4), "random": dl.RandomConfig(n_features=32, k=4),
               "kmeans": dl.KMeansConfig(n_features=4), "mean": dl.MeanConfig()}  # fmt: skip
    found = dl.fit(configs, store, RUN, sites=dl.Sites(every, every), progress=False)
    x = rows.joined(every)
    for name, dictionary in found.items():
        assert dictionary(x).shape == x.shape, name
    z = found["random"]._standardized(x)
    assert all(float(part.var()) == pytest.approx(1, rel=0.1) for part in every.split(z))
