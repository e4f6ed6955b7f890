"""Training that starts from a dictionary."""

from dataclasses import replace

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.registry import config_class
from dictlearn.training import initial

X = torch.randn(600, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
RUN = dl.FitConfig(steps=30, batch_size=64, standardize_rows=64, checkpoint_every=10)
SAE = dl.SAEConfig(n_features=16)
GRADIENT = [
    "sae", "topk_sae", "batchtopk_sae", "jumprelu_sae", "gated_sae", "matryoshka_sae", "codebook",
    "residual_codebook", "transcoder", "topk_transcoder", "batchtopk_transcoder",
    "jumprelu_transcoder",
]  # fmt: skip


def weights(dictionary):
    return dictionary.state_dict()


def same(one, other):
    return all(torch.equal(weights(one)[name], t) for name, t in weights(other).items())


@pytest.mark.parametrize("kind", GRADIENT)
def test_training_goes_on_where_it_ended(kind):
    config = config_class(kind).tiny()
    first = dl.fit(config, X, RUN, progress=False)
    before = {name: t.clone() for name, t in weights(first).items()}
    still = dl.fit(
        config, X, replace(RUN, steps=1, learning_rate=1e-30), init=first, progress=False
    )
    for name, t in weights(still).items():
        if name not in ("threshold", "_n_observed"):
            torch.testing.assert_close(t, before[name], rtol=1e-5, atol=1e-6)
    more = dl.fit(config, X, RUN, init=first, progress=False)
    assert not same(more, first)
    assert torch.equal(more.x_mean, first.x_mean)
    assert torch.equal(more.x_scale, first.x_scale)
    assert all(torch.equal(t, before[name]) for name, t in weights(first).items()), "it is copied"


def test_a_run_that_continues_one_resumes_to_the_same_bits_and_says_whence(tmp_path):
    first = dl.fit(SAE, X, RUN, out=tmp_path / "first", progress=False)
    init = dl.load(tmp_path / "first")
    whole = dl.fit(SAE, X, RUN, init=first, out=tmp_path / "whole", progress=False)
    assert same(whole, dl.fit(SAE, X, RUN, init=init, progress=False))
    told = dl.load(tmp_path / "whole").provenance.training
    assert len(told["init"]) == 64
    assert "init" not in init.provenance.training
    with pytest.raises(InputError, match="overwrites none, for that may be the one"):
        dl.fit(SAE, X, RUN, init=init, out=tmp_path / "first", overwrite=True, progress=False)
    assert same(dl.load(tmp_path / "first"), first)


def test_another_site_keeps_its_units_and_a_warning_says_so(caplog):
    first = dl.fit(SAE, X, RUN, progress=False)
    assert not caplog.text
    first.sites = Sites(Site("a", 8), Site("a", 8))
    more = dl.fit(SAE, X / 2, RUN, init=first, progress=False)
    assert torch.equal(more.x_scale, first.x_scale)
    assert "was made at a, and is trained further at x; it keeps its mean and scale" in caplog.text


def test_an_imported_threshold_does_not_jump(tmp_path):
    config = dl.BatchTopKSAEConfig(n_features=16, k=2)
    first = dl.fit(config, X, replace(RUN, steps=200), progress=False)
    dl.save(first, tmp_path, format="dictionary_learning")
    theirs = dl.load(f"dictionary_learning:{tmp_path}")
    still = replace(RUN, steps=1, learning_rate=1e-12)
    more = dl.fit(theirs.config, X, still, init=theirs, progress=False)
    assert more.threshold == pytest.approx(theirs.threshold.item(), rel=2e-3)


def test_each_of_several_may_have_its_own():
    first = dl.fit({"a": SAE, "b": SAE}, X, RUN, progress=False)
    both = dl.fit({"a": SAE, "b": SAE}, X, RUN, init={"a": first["a"]}, progress=False)
    assert same(both["b"], first["b"]), "it starts afresh"
    assert same(both["a"], dl.fit(SAE, X, RUN, init=first["a"], progress=False))


def test_a_downloaded_one_is_trained_further(tmp_path):
    first = dl.fit(SAE, X, RUN, progress=False)
    dl.save(first, tmp_path / "theirs", format="saelens")
    theirs = dl.load(f"saelens:{tmp_path / 'theirs'}")
    assert theirs.config is not None
    error = [(X - d(X)).square().sum() for d in (
        theirs, dl.fit(theirs.config, X, RUN, init=theirs, progress=False)
    )]  # fmt: skip
    assert error[1] < error[0]


@pytest.mark.parametrize("kind", ["sae", "topk_sae", "transcoder", "jumprelu_transcoder"])
def test_weights_from_elsewhere_are_constrained_without_changing_an_estimate(kind):
    config = config_class(kind).tiny()
    theirs = dl.fit(config, X, RUN, progress=False).double()
    with torch.no_grad():
        theirs.W_dec *= 3
        if kind == "sae":  # the only one whose features are not compared with anything
            theirs.W_dec *= 1 + torch.rand(theirs.n_features, 1, dtype=torch.float64)
        ours = initial._constrained("it", theirs)
    torch.testing.assert_close(ours.W_dec.norm(dim=1), torch.ones(theirs.n_features).double())
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-4, atol=1e-5)


def test_atoms_of_different_norms_are_refused_where_features_would_change():
    theirs = dl.fit(dl.TopKSAEConfig(n_features=16, k=2), X, RUN, progress=False)
    with torch.no_grad():
        theirs.W_dec[0] *= 2
    with pytest.raises(InputError, match="atoms as training constrains them"):
        dl.fit(theirs.config, X, RUN, init=theirs, progress=False)


@pytest.mark.parametrize(
    ("config", "init", "match"),
    [
        (dl.TopKSAEConfig(n_features=16, k=2), "sae", "kind 'topk_sae' and the shapes.*got 'sae'"),
        (dl.SAEConfig(n_features=8), "sae", r"W_dec \(16, 8\) instead of \(8, 8\)"),
        (dl.MeanConfig(), "mean", "learns by gradient descent"),
        ({"a": SAE}, "sae", "a dict of dictionaries by name"),
        ({"abc": SAE}, {"abd": "sae"}, "did you mean 'abc'"),
    ],
)
def test_what_does_not_fit_is_refused(config, init, match):
    known = dl.fit({"sae": SAE, "mean": dl.MeanConfig()}, X, RUN, progress=False)
    given = {n: known[d] for n, d in init.items()} if isinstance(init, dict) else known[init]
    with pytest.raises(InputError, match=match):
        dl.fit(config, X, RUN, init=given, progress=False)


def test_who_finished_is_told_how_to_go_on(tmp_path):
    dl.fit(SAE, X, RUN, out=tmp_path, progress=False)
    with pytest.raises(InputError, match="to train it further, pass it as init="):
        dl.fit(SAE, X, replace(RUN, steps=60), out=tmp_path, progress=False)
