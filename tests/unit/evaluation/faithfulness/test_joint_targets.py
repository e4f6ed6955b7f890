"""Dictionaries of several targets, replaced together and one by one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import dictlearn as dl
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites


class AllMLPs(FeatureDictionary):
    """The exact MLPs of all layers side by side, with a common factor on what they write."""

    def __init__(self, model, pairs, factor=1.0):
        sites = Sites(
            Site.joined([p.source for p in pairs]), Site.joined([p.target for p in pairs])
        )
        self.mlps, self.factor = [mlp_weights(model, p) for p in pairs], factor
        super().__init__(sites, sum(mlp.W_out.shape[0] for mlp in self.mlps))
        self.register_buffer("_atoms", torch.block_diag(*(mlp.W_out for mlp in self.mlps)))
        self.register_buffer("_bias", torch.cat([factor * mlp.b_out for mlp in self.mlps]))

    def sources_of(self, target):
        at = self.sites.target.hooks.index(target)
        return self.sites.source.hooks[at : at + 1]

    def _encode(self, z):
        layers = zip(self.mlps, self.sites.source.split(z), strict=True)
        return torch.cat([self.factor * mlp.hidden(x) for mlp, x in layers], dim=1)


@pytest.fixture(scope="module")
def model(native):
    return native(n_layers=3)


@pytest.fixture(scope="module")
def pairs(model):
    return [mlp_sites(model, layer) for layer in range(3)]


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (7, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 0
    return Tokens(ids, ids != 0, source="random", split="held_out", hash="abc")


def metric(records, name, key):
    return records.dictionaries[name].metrics[key].value


def test_the_exact_mlps_of_all_layers_change_nothing(model, pairs, tokens):
    records = dl.evaluate({"all": AllMLPs(model, pairs)}, model, tokens, progress=False)
    rows = ["all", *(f"all @ {pair.target.hook}" for pair in pairs)]
    assert list(records.dictionaries) == rows
    assert records.tokens["estimates"] == {"all": "running model"}
    for row in rows:
        assert metric(records, row, "fraction_variance_unexplained") == pytest.approx(0, abs=1e-9)
        assert metric(records, row, "kl") == pytest.approx(0, abs=1e-6)
        assert metric(records, row, "loss_recovered_zero") == pytest.approx(1, abs=1e-4)
    assert records.dictionaries[rows[2]].sites.target == pairs[1].target


def test_the_replacement_model_by_hand(model, pairs, tokens):
    """All MLPs at half strength, each reading what the one before has left: in one plain pass."""
    dictionary = AllMLPs(model, pairs, factor=0.5)
    halved = {
        pair.target.hook: lambda y, positions: torch.where((positions > 0).unsqueeze(2), y / 2, y)
        for pair in pairs
    }
    with patched(model, halved), torch.no_grad():
        logits = model(tokens.ids)
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), tokens.ids[:, 1:].flatten())
    for batch_size in (2, 7):
        records = dl.evaluate(
            {"half": dictionary}, model, tokens, batch_size=batch_size, progress=False
        )
        found = metric(records, "half", "cross_entropy_spliced")
        assert found == pytest.approx(float(expected), rel=1e-5)
    with dl.without_shortcuts():
        plain = dl.evaluate({"half": dictionary}, model, tokens, progress=False)
    assert metric(plain, "half", "cross_entropy_spliced") == pytest.approx(
        float(expected), rel=1e-5
    )


def test_one_target_alone_is_the_dictionary_of_that_target(model, pairs, tokens):
    """A record of one target of several equals that of a dictionary with no other."""
    records = dl.evaluate(
        {"three": AllMLPs(model, pairs, 0.7), "one": AllMLPs(model, pairs[1:2], 0.7)},
        model,
        tokens,
        progress=False,
    )
    alone = f"three @ {pairs[1].target.hook}"
    for key, found in records.dictionaries["one"].metrics.items():
        if "l0" in key or "bits" in key or "dens" in key or "dead" in key or key in ("l1",):
            continue  # three layers have more active features than one
        assert metric(records, alone, key) == pytest.approx(found.value, rel=1e-5, nan_ok=True), key


def test_a_joint_ablation_is_that_of_all_targets(model, pairs, tokens):
    nothing = {
        pair.target.hook: lambda y, positions: torch.where((positions > 0).unsqueeze(2), 0.0, y)
        for pair in pairs
    }
    with patched(model, nothing), torch.no_grad():
        logits = model(tokens.ids)
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), tokens.ids[:, 1:].flatten())
    records = dl.evaluate({"all": AllMLPs(model, pairs, 0.5)}, model, tokens, progress=False)
    sums = records.dictionaries["all"].sums
    found = sums["cross_entropy_zero"].sum() / sums["predictions"].sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_estimates_of_a_crosscoder_come_from_the_clean_pass(model, tokens):
    """It writes the first layer from all of them, the last included."""
    every = hook_sites(model, [f"blocks.{i}.hook_resid_post" for i in range(3)])
    crosscoder = dl.CrosscoderConfig(n_features=64).build(every)
    nn.init.normal_(crosscoder.b_dec)
    records = dl.evaluate({"cc": crosscoder}, model, tokens, progress=False)
    assert records.tokens["estimates"] == {"cc": "clean pass"}
    assert len(records.dictionaries) == 4
    identity = dl.IdentityConfig().build(every)
    exact = dl.evaluate({"id": identity}, model, tokens, progress=False)
    for row in exact.dictionaries:
        assert metric(exact, row, "kl") == 0.0
    last = "cc @ blocks.2.hook_resid_post"  # replaces all that was spliced in before
    assert metric(records, "cc", "cross_entropy_spliced") == pytest.approx(
        metric(records, last, "cross_entropy_spliced"), rel=1e-5
    )


def test_bits_and_files_take_several_targets(model, pairs, tokens, tmp_path):
    records = dl.evaluate({"all": AllMLPs(model, pairs)}, model, tokens, bits=True, progress=False)
    records.save(tmp_path)
    loaded = dl.Records.load(tmp_path)
    assert loaded.dictionaries["all"].sites == AllMLPs(model, pairs).sites
    assert loaded.to_pandas().equals(records.to_pandas())
    assert loaded.tokens["estimates"] == {"all": "running model"}
