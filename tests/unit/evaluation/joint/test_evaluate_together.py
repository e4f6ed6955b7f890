"""Dictionaries in their places together: oracles, and the running model written out."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.evaluation.joint.evaluate_together import evaluate_together, require_sets
from dictlearn.harvesting import harvest
from dictlearn.interventions.inside import inside
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.sites import hook_sites
from dictlearn.records.joint import JointRecords
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit


@pytest.fixture(scope="module")
def model(native):
    return native(act_fn="relu")


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(40, (9, 12), generator=torch.Generator().manual_seed(5))
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), "random", "held_out", "1")


def measured(dictionaries, model, tokens, **options):
    return evaluate_together(dictionaries, model, tokens, progress=False, **options)


def test_the_identity_and_the_mlps_themselves_change_nothing(model, tokens):
    activations = harvest(model, tokens, [mlp_sites(model, layer) for layer in (0, 1)])
    run = FitConfig(steps=1, batch_size=8)
    exact = {
        f"mlp{layer}": fit(NeuronsConfig(), activations, run, sites=mlp_sites(model, layer),
                           progress=False)
        for layer in (0, 1)
    }  # fmt: skip
    same = {
        hook: IdentityConfig().build(hook_sites(model, hook))
        for hook in ("blocks.0.attn.hook_z", "blocks.1.hook_resid_mid")
    }
    for dictionaries in (exact, same):
        found = measured(dictionaries, model, tokens).sets
        for record in found.values():
            assert record.metrics["kl"].value == pytest.approx(0, abs=1e-6)
            if record.dictionaries:
                assert record.metrics["loss_recovered_zero"].value == pytest.approx(1, abs=1e-4)
                assert record.metrics["top1_agreement"].value == 1


def test_zeros_recover_nothing(model, tokens):
    sites = {hook: hook_sites(model, hook) for hook in ("blocks.0.hook_mlp_out",
                                                        "blocks.1.hook_mlp_out")}  # fmt: skip
    zero = {hook: TopKSAEConfig(n_features=4, k=1).build(at) for hook, at in sites.items()}
    for d in zero.values():
        d.W_dec.data.zero_()
    for record in measured(zero, model, tokens).sets.values():
        if record.dictionaries:
            assert record.metrics["loss_recovered_zero"].value == pytest.approx(0, abs=1e-6)
            assert record.metrics["kl_recovered_zero"].value == pytest.approx(0, abs=1e-6)


def test_it_is_the_running_model(model, tokens, tmp_path):
    ds = {
        "z": CodebookConfig(n_codes=9, n_groups=model.cfg.n_heads).build(
            hook_sites(model, "blocks.0.attn.hook_z")
        ),
        "tc0": TranscoderConfig(n_features=20).build(mlp_sites(model, 0)),
        "tc1": TranscoderConfig(n_features=20).build(mlp_sites(model, 1)),
    }
    records = measured(ds, model, tokens, sets={"mlps": ["tc0", "tc1"]}, batch_size=4)
    assert list(records.sets) == ["all", "all but z", "all but tc0", "all but tc1", "mlps", "none"]
    assert records.sets["mlps"].metrics == records.sets["all but z"].metrics
    clean = model(tokens.ids)[:, :-1].flatten(0, 1)
    targets = tokens.ids[:, 1:].flatten()
    for record in records.sets.values():
        with torch.no_grad(), inside(model, {n: ds[n] for n in record.dictionaries}):
            logits = model(tokens.ids)[:, :-1].flatten(0, 1)
        ce, kl = cross_entropy(logits, targets), kl_div(
            logits.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True
        )  # fmt: skip
        metrics = record.metrics
        assert metrics["cross_entropy_spliced"].value == pytest.approx(float(ce), rel=1e-5)
        assert metrics["kl"].value == pytest.approx(float(kl), abs=1e-5)
        low, value, high = (getattr(metrics["kl"], end) for end in ("low", "value", "high"))
        assert low <= value <= high
    zeroed = [(f"blocks.{layer}.hook_mlp_out", lambda y, hook: 0 * y) for layer in (0, 1)]
    zero = float(cross_entropy(
        model.run_with_hooks(tokens.ids, fwd_hooks=zeroed)[:, :-1].flatten(0, 1), targets
    ))  # fmt: skip
    own = records.sets["mlps"].metrics
    clean_loss, spliced = (own[f"cross_entropy_{m}"].value for m in ("clean", "spliced"))
    assert own["loss_recovered_zero"].value == pytest.approx(
        (zero - spliced) / (zero - clean_loss), rel=1e-4
    )
    none = records.sets["none"].metrics
    assert (none["kl"].value, none["top1_agreement"].value) == (0.0, 1.0)
    assert math.isnan(none["loss_recovered_zero"].value)
    assert none["loss_recovered_zero"].reason == "no target is ablated"

    records.save(tmp_path)
    again = JointRecords.load(tmp_path)
    assert again.to_pandas().equals(records.to_pandas())
    assert list(records.to_pandas().columns[:3]) == [
        "cross_entropy_clean", "cross_entropy_clean_low", "cross_entropy_clean_high",
    ]  # fmt: skip


def test_errors(model, tokens):
    sites = hook_sites(model, "blocks.0.hook_mlp_out")
    ds = {name: TopKSAEConfig(n_features=4, k=1).build(sites) for name in ("a", "b")}
    with pytest.raises(InputError, match="several dictionaries replace"):
        measured(ds, model, tokens)
    with pytest.raises(InputError, match=r"no dictionary.*'a'"):
        measured({"a": ds["a"]}, model, tokens, sets={"mine": ["aa"]})
    for batch_size in (0, -2, True):
        with pytest.raises(InputError, match="at least 1 as batch_size"):
            measured({"a": ds["a"]}, model, tokens, batch_size=batch_size)
    with pytest.raises(InputError, match="a dictionary, or several in a dict"):
        measured({}, model, tokens)


@pytest.mark.untyped
def test_sets_have_their_own_names_and_list_their_members(model):
    ds = {
        name: IdentityConfig().build(hook_sites(model, f"blocks.{layer}.hook_mlp_out"))
        for layer, name in enumerate("at")
    }
    for name in ("all", "none", "all but a", "all but t"):
        with pytest.raises(InputError, match="another name than 'all', 'none', 'all but a'"):
            require_sets(model, ds, {name: ["a"]})
    with pytest.raises(InputError, match="another name"):  # results would lack "all but a" itself
        require_sets(model, {"a": ds["a"]}, {"all but a": ["a"]})
    for members in ("at", "a", 3, None):
        with pytest.raises(InputError, match="a list of names of dictionaries as the set 'x'"):
            require_sets(model, ds, {"x": members})
    for sets in ([["a"]], {3: ["a"]}):
        with pytest.raises(InputError, match="required a"):
            require_sets(model, ds, sets)
    found = require_sets(model, ds, {"x": ["t", "a", "t"], "y": iter(["a"])})
    assert found["x"] == ("t", "a"), "a member counts once"
    assert found["y"] == ("a",)
