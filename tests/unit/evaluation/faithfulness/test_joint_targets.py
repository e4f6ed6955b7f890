"""Dictionaries of several targets, replaced together and one by one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import dictlearn as dl
from dictlearn.comparison.runs import combine
from dictlearn.comparison.statistics.intervals import differences_frame
from dictlearn.comparison.vocabulary import by_target
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.quantized import Quantized
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.faithfulness.coefficient_bits import KEPT, LADDER
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites
from dictlearn.metrics.bits import QUANTIZED, level_code
from dictlearn.records.results import Records


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
    assert records.dictionaries["all"].estimates == "running model"
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
    for key, found in records.dictionaries["one"].metrics.items():  # of its own features alone
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
    assert records.dictionaries["cc"].estimates == "clean pass"
    assert len(records.dictionaries) == 4
    identity = dl.IdentityConfig().build(every)
    exact = dl.evaluate({"id": identity}, model, tokens, progress=False)
    for row in exact.dictionaries:
        assert metric(exact, row, "kl") == 0.0
    last = "cc @ blocks.2.hook_resid_post"  # replaces all that was spliced in before
    assert metric(records, "cc", "cross_entropy_spliced") == pytest.approx(
        metric(records, last, "cross_entropy_spliced"), rel=1e-5
    )


def test_the_bits_of_a_replacement_model_are_measured_in_it(model, pairs, tokens):
    """The coarsest step that keeps 99 % of what the running model recovers, found by trying all."""
    dictionary = AllMLPs(model, pairs, 0.9)
    records = dl.evaluate({"all": dictionary}, model, tokens, bits=True, progress=False)
    acts = dictionary.encode_sparse(rows_of(model, tokens, dictionary.sites.source))
    contributions = acts.values.double() * dictionary.atoms.norm(dim=1)[acts.indices].double()
    unit = contributions.square().mean().sqrt().item()
    needed = KEPT * metric(records, "all", "loss_recovered_zero")
    for step in LADDER:
        quantized = Quantized(dictionary, step * unit)
        tried = dl.evaluate({"q": quantized}, model, tokens, progress=False)
        assert tried.dictionaries["q"].estimates == "running model"
        if metric(tried, "q", "loss_recovered_zero") >= needed:
            break
    for row, record in tried.dictionaries.items():  # all targets, and each by itself
        kept = records.dictionaries["all" + row.removeprefix("q")].sums
        for name, new in QUANTIZED.items():
            torch.testing.assert_close(kept[new], record.sums[name], rtol=1e-4, atol=1e-4)
    own = torch.arange(acts.n_features) // (acts.n_features // len(pairs))
    for row, layers in {"all": (0, 1, 2), f"all @ {pairs[1].target.hook}": (1,)}.items():
        part = acts.where(torch.isin(own[acts.indices], torch.tensor(layers)))
        counts = quantized.levels(part).unique(return_counts=True)[1]
        expected = (counts * level_code(counts)).sum().item() / len(acts)
        assert metric(records, row, "coefficient_bits") == pytest.approx(expected, rel=1e-4)


def rows_of(model, tokens, site):
    at = activations_at(model, tokens.ids, site.hooks)
    return torch.cat([at[hook][tokens.ordinary] for hook in site.hooks], dim=1)


def test_two_results_of_one_name_are_refused(model, pairs, tokens):
    hook = pairs[0].target.hook
    sae = dl.TopKSAEConfig(n_features=4, k=2).build(hook_sites(model, hook))
    both = {"all": AllMLPs(model, pairs), f"all @ {hook}": sae}
    with pytest.raises(InputError, match=f"two results would be named 'all @ {hook}'"):
        dl.evaluate(both, model, tokens, progress=False)


def test_what_is_not_comparable_is_kept_apart(model, pairs, tokens):
    every = dl.Sites(AllMLPs(model, pairs).sites.target, AllMLPs(model, pairs).sites.target)
    clean = dl.CrosscoderConfig(n_features=8).build(every)
    running = dl.evaluate({"clt": AllMLPs(model, pairs)}, model, tokens, progress=False)
    other = dl.evaluate({"cc": clean}, model, tokens, progress=False)
    records = combine({"a": running, "b": other})
    places = {name: records.dictionaries[name].place for name in ("clt", "cc")}
    assert places["clt"] == f"{places['cc']} (replacement model)"
    assert set(by_target(records)) >= set(places.values())
    with pytest.raises(InputError, match="'cc' and 'clt' are not comparable"):
        differences_frame(
            Records(records.provenance, records.tokens,
                    {n: records.dictionaries[n] for n in ("clt", "cc")}),
            "loss_recovered_zero", "clt",
        )  # fmt: skip


def test_bits_and_files_take_several_targets(model, pairs, tokens, tmp_path):
    records = dl.evaluate({"all": AllMLPs(model, pairs)}, model, tokens, bits=True, progress=False)
    records.save(tmp_path)
    loaded = dl.Records.load(tmp_path)
    assert loaded.dictionaries["all"].sites == AllMLPs(model, pairs).sites
    assert loaded.to_pandas().equals(records.to_pandas())
    assert loaded.dictionaries["all"].estimates == "running model"
