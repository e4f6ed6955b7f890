"""Evaluation against closed forms and against the same numbers computed the long way."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, NonFiniteError, ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.mean import Mean
from dictlearn.dictionaries.neurons import NeuronsConfig
from dictlearn.evaluation.faithfulness.ablations import donors
from dictlearn.evaluation.faithfulness.evaluate import evaluate
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.sites import hook_sites
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.pooled import pooled_metrics

SPECIAL = 0


class Affine(FeatureDictionary):
    """Writes `scale * x + shift`: enough for every closed form."""

    def __init__(self, sites, scale=1.0, shift=0.0):
        super().__init__(sites, sites.target.d)
        self.register_buffer("_atoms", scale * torch.eye(sites.target.d))
        self.register_buffer("_bias", torch.full((sites.target.d,), shift))

    def _encode(self, z):
        return z


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (7, 12), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = SPECIAL
    ids[3, 5] = SPECIAL
    return Tokens(ids, ids != SPECIAL, source="random", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def sites(model):
    return mlp_sites(model, 1)


def metrics(records, name):
    return {key: m.value for key, m in records.dictionaries[name].metrics.items()}


def test_the_exact_map_scores_one(model, tokens, sites):
    exact = {
        "identity": IdentityConfig().build(sites.at_target()),
        "neurons": NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites),
    }
    records = evaluate(exact, model, tokens)
    for name in exact:
        found = metrics(records, name)
        assert found["fraction_variance_unexplained"] == pytest.approx(0, abs=1e-9)
        for metric in ("explained_variance", "cosine", "norm_ratio", "top1_agreement",
                       "loss_recovered_zero", "loss_recovered_mean", "loss_recovered_resample",
                       "kl_recovered_zero"):  # fmt: skip
            assert found[metric] == pytest.approx(1, abs=1e-4), (name, metric)
        assert found["kl"] == pytest.approx(0, abs=1e-6)
        assert found["cross_entropy_spliced"] == pytest.approx(found["cross_entropy_clean"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_neurons_and_others_of_a_model_in_another_precision(native, tokens, dtype):
    model = native().to(dtype)
    sites = mlp_sites(model, 1)
    exact = {
        "neurons": NeuronsConfig(mlp=mlp_weights(model, sites)).build(sites),
        "identity": IdentityConfig().build(sites.at_target()),
    }
    records = evaluate(exact, model, tokens)
    assert metrics(records, "identity")["kl"] == pytest.approx(0, abs=1e-9)
    rounding = torch.finfo(dtype).eps ** 2 + 1e-9
    assert metrics(records, "neurons")["fraction_variance_unexplained"] <= rounding


def test_a_model_with_dropout_at_work_is_refused(native, tokens, sites):
    model = native()
    model.blocks[0].register_module("dropout", torch.nn.Dropout(0.3))
    identity = {"identity": IdentityConfig().build(sites.at_target())}
    evaluate(identity, model.eval(), tokens)
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        evaluate(identity, model.train(), tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale:UserWarning")
def test_hooks_inside_a_normalisation_in_half_precision(native, tokens, dtype):
    model = native().to(dtype)
    hook = hook_sites(model, "blocks.1.ln1.hook_normalized")
    records = evaluate({"identity": IdentityConfig().build(hook)}, model, tokens)
    assert metrics(records, "identity")["kl"] == pytest.approx(0, abs=1e-2)


def test_zero_scores_zero_against_zero_ablation(model, tokens, sites):
    records = evaluate({"zero": Affine(sites.at_target(), scale=0.0)}, model, tokens)
    found = metrics(records, "zero")
    assert found["loss_recovered_zero"] == 0.0
    assert found["kl_recovered_zero"] == 0.0
    assert found["norm_ratio"] == 0.0
    assert found["cosine"] == 0.0


def test_the_mean_of_the_evaluation_set_scores_zero(model, tokens, sites):
    rows = activations_at(model, tokens.ids, [sites.target.hook])[sites.target.hook]
    mean = Mean(sites.at_target())
    mean._bias.copy_(rows[tokens.ordinary].mean(dim=0))
    found = metrics(evaluate({"mean": mean}, model, tokens), "mean")
    assert found["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert found["loss_recovered_mean"] == pytest.approx(0, abs=1e-5)
    assert found["l0"] == 0
    assert math.isnan(found["dead_fraction"])


def test_twice_the_activation_has_known_numbers(model, tokens, sites):
    rows = activations_at(model, tokens.ids, [sites.target.hook])[sites.target.hook]
    y = rows[tokens.ordinary].double()
    found = metrics(evaluate({"twice": Affine(sites.at_target(), 2.0)}, model, tokens), "twice")
    fvu = y.pow(2).sum() / (y - y.mean(dim=0)).pow(2).sum()
    assert found["fraction_variance_unexplained"] == pytest.approx(fvu.item(), rel=1e-5)
    assert found["fraction_variance_unexplained"] > 1, "a bad estimate is not clipped"
    assert found["norm_ratio"] == pytest.approx(2, rel=1e-6)
    assert found["cosine"] == pytest.approx(1, rel=1e-6)
    assert found["l0"] == sites.target.d
    assert found["l1"] == pytest.approx(y.abs().sum(dim=1).mean().item(), rel=1e-5)


def test_losses_equal_the_long_way(native, tokens, sites):
    """One unbatched pass per condition, hooks set by hand, means taken once at the end.

    In float64: a share of a loss recovered is a quotient of small differences.
    """
    model = native().double()
    hook, ids, counted = sites.target.hook, tokens.ids, tokens.ordinary

    def run(replace):
        def function(activation, hook):
            new = activation.clone()
            new[counted] = replace(activation[counted])
            return new

        with torch.no_grad(), model.hooks(fwd_hooks=[(hook, function)]):
            return model(ids)[:, :-1][counted[:, 1:]]

    targets = ids[:, 1:][counted[:, 1:]]
    clean, spliced = run(lambda y: y), run(lambda y: 0.5 * y + 0.1)
    zero, mean = run(torch.zeros_like), run(lambda y: y.mean(dim=0).expand_as(y))
    ce = {k: cross_entropy(v, targets).item() for k, v in
          {"clean": clean, "spliced": spliced, "zero": zero, "mean": mean}.items()}  # fmt: skip
    p, q = log_softmax(clean, dim=1), log_softmax(spliced, dim=1)
    kl = (p.exp() * (p - q)).sum(dim=1).mean().item()

    dictionary = Affine(sites.at_target(), scale=0.5, shift=0.1).double()
    found = metrics(evaluate({"half": dictionary}, model, tokens, batch_size=2), "half")
    assert found["cross_entropy_clean"] == pytest.approx(ce["clean"], rel=1e-9)
    assert found["cross_entropy_spliced"] == pytest.approx(ce["spliced"], rel=1e-9)
    for name in ("zero", "mean"):
        by_hand = (ce[name] - ce["spliced"]) / (ce[name] - ce["clean"])
        assert found[f"loss_recovered_{name}"] == pytest.approx(by_hand, abs=1e-9)
    assert found["kl"] == pytest.approx(kl, rel=1e-9)
    agreement = (clean.argmax(dim=1) == spliced.argmax(dim=1)).double().mean().item()
    assert found["top1_agreement"] == pytest.approx(agreement)


def test_company_and_batch_size_change_nothing(native, tokens, sites):
    model = native().double()
    half = Affine(sites.at_target(), scale=0.5).double()
    alone = metrics(evaluate({"half": half}, model, tokens, batch_size=1), "half")
    others = {"half": half, "zero": Affine(sites.at_target(), 0.0).double(),
              "first": Affine(mlp_sites(model, 0).at_target(), 0.7).double()}  # fmt: skip
    together = metrics(evaluate(others, model, tokens, batch_size=7), "half")
    for name, value in alone.items():
        expected = pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True)
        assert together[name] == expected, name


def test_ablations_are_left_out_on_request(model, tokens, sites):
    half = {"half": Affine(sites.at_target(), scale=0.5)}
    every = metrics(evaluate(half, model, tokens), "half")
    record = evaluate(half, model, tokens, ablations=["zero"]).dictionaries["half"]
    for name in ("loss_recovered_zero", "kl_recovered_zero", "kl"):
        assert record.metrics[name].value == pytest.approx(every[name], rel=1e-5)
    for name in ("loss_recovered_mean", "loss_recovered_resample"):
        assert math.isnan(record.metrics[name].value)
        assert "not measured" in record.metrics[name].reason
    alone = metrics(evaluate(half, model, tokens, ablations="zero"), "half")
    assert alone["kl"] == record.metrics["kl"].value
    for wrong in (["mean"], ["zero", "zeros"]):
        with pytest.raises(InputError, match="ablations must be 'zero' and any of"):
            evaluate(half, model, tokens, ablations=wrong)


def test_resampling_gives_each_sequence_anothers_activations():
    for n in (2, 7):
        given = donors(n, seed=3)
        assert sorted(given.tolist()) == list(range(n))
        assert (given != torch.arange(n)).all()
    assert donors(1, seed=0).tolist() == [0]
    assert not torch.equal(donors(50, seed=0), donors(50, seed=1))


def test_batch_size_must_be_positive(model, tokens, sites):
    for size in (0, -1):
        with pytest.raises(InputError, match="batch_size"):
            evaluate({"d": Affine(sites.at_target())}, model, tokens, batch_size=size)


def test_metrics_follow_from_the_sums_kept(model, tokens, sites):
    record = evaluate({"half": Affine(sites.at_target(), 0.5)}, model, tokens).dictionaries["half"]
    totals = {name: values.sum() for name, values in record.sums.items()}
    assert all(len(values) == len(tokens) for values in record.sums.values())
    assert record.sums["rows"].tolist() == tokens.ordinary.sum(dim=1).tolist()
    again = pooled_metrics(totals, record.density)
    assert {k: m.value for k, m in again.items()}.items() <= metrics_of(record).items()


def metrics_of(record):
    return {key: m.value for key, m in record.metrics.items()}


def test_special_tokens_are_left_out_unless_asked_for(model, tokens, sites):
    shifted = {"shift": Affine(sites.at_target(), shift=1.0)}
    without = evaluate(shifted, model, tokens)
    with_special = evaluate(shifted, model, tokens, exclude_special=False)
    rows = [r.dictionaries["shift"].sums["rows"].sum().item() for r in (without, with_special)]
    assert rows == [7 * 12 - 8, 7 * 12]
    assert without.tokens["exclude_special"] is True
    assert metrics(without, "shift") != metrics(with_special, "shift")


def test_nothing_is_spliced_at_special_positions(model, tokens, sites):
    """Garbage at special positions must not matter: the clean activation stays there."""

    class GarbageOnSpecial(Affine):
        def _encode(self, z):
            known = z.unsqueeze(1).sub(self.rows).abs().amax(dim=2).amin(dim=1) < 1e-4
            return torch.where(known.unsqueeze(1), z, 1e6)

    dictionary = GarbageOnSpecial(sites.at_target())
    rows = activations_at(model, tokens.ids, [sites.target.hook])[sites.target.hook]
    dictionary.rows = rows[tokens.ordinary]
    found = metrics(evaluate({"d": dictionary}, model, tokens), "d")
    assert found["loss_recovered_zero"] == pytest.approx(1, abs=1e-5)


def test_the_frame_has_a_row_a_dictionary_and_a_column_a_metric(model, tokens, sites):
    frame = evaluate({"half": Affine(sites.at_target(), 0.5)}, model, tokens).to_pandas()
    assert list(frame.index) == ["half"]
    assert list(frame.columns) == [metric.name for metric in REPORTED]


def test_head_shaped_hooks_work(model, tokens):
    sites = hook_sites(model, "blocks.0.attn.hook_z")
    found = metrics(evaluate({"z": Affine(sites)}, model, tokens), "z")
    assert found["loss_recovered_zero"] == pytest.approx(1, abs=1e-4)


def test_a_transcoder_reads_the_source_and_writes_the_target(model, tokens, sites):
    wrong = IdentityConfig().build(Sites(sites.source, sites.source))
    wrong.sites = Sites(sites.source, sites.target)
    found = metrics(evaluate({"copy": wrong}, model, tokens), "copy")
    assert found["loss_recovered_zero"] < 0.99, "the MLP's input is not its output"


def test_wrong_dictionaries_are_refused_before_work_starts(model, tokens, sites):
    with pytest.raises(InputError, match="a dictionary, or several"):
        evaluate({}, model, tokens)
    misspelt = Affine(Sites(Site("blocks.1.mlp.hook_ou", 16), Site("blocks.1.mlp.hook_ou", 16)))
    with pytest.raises(InputError, match=r"did you mean 'blocks\.1\.mlp\.hook_out'"):
        evaluate({"d": misspelt}, model, tokens)
    narrow = Site(sites.target.hook, 15)
    with pytest.raises(InputError, match=r"width 15.*width 16"):
        evaluate({"d": Affine(Sites(narrow, narrow))}, model, tokens)


def test_another_models_dictionary_is_refused(model, tokens, sites):
    dictionary = Affine(sites.at_target())
    dictionary.provenance = Provenance(model="other", model_hash="0" * 64)
    with pytest.raises(ProvenanceError, match="trained on model 'other'"):
        evaluate({"d": dictionary}, model, tokens)


def test_evaluating_on_training_tokens_warns(model, tokens, sites):
    dictionary = Affine(sites.at_target())
    dictionary.provenance = Provenance(text_hash=tokens.hash)
    with pytest.warns(UserWarning, match="held-out"):
        evaluate({"d": dictionary}, model, tokens)


def test_an_estimate_with_nan_is_named(model, tokens, sites):
    with pytest.raises(NonFiniteError, match="dictionary 'broken'"):
        evaluate({"broken": Affine(sites.at_target(), shift=math.nan)}, model, tokens)


def test_fvu_with_and_without_massive_rows(native):
    model = native(n_ctx=40)
    ids = torch.randint(6, 40, (6, 40), generator=torch.Generator().manual_seed(1))
    ids[2:4, 7] = MASSIVE = 5
    with torch.no_grad():
        model.W_E[MASSIVE] *= 300
    tokens = Tokens(ids, torch.ones_like(ids).bool(), source="x", split="held_out", hash="abc")
    hook = hook_sites(model, "hook_embed")
    y = model.W_E[ids].flatten(0, 1).double()
    typical = y[ids.flatten() != MASSIVE]
    mean, shrink = Mean(hook), Affine(hook, 0.5)
    mean._bias.copy_(typical.mean(dim=0))
    given = {"identity": IdentityConfig().build(hook), "mean": mean, "half": shrink}
    records = evaluate(given, model, tokens)
    assert all(metrics(records, name)["massive_fraction"] == 2 / 240 for name in given)
    found = {
        name: metrics(records, name)["fraction_variance_unexplained_typical"] for name in given
    }
    variance = (typical - typical.mean(dim=0)).square().sum()
    half = float(typical.square().sum() / 4 / variance)
    assert found == pytest.approx({"identity": 0, "mean": 1, "half": half}, abs=1e-6)
    assert metrics(records, "mean")["fraction_variance_unexplained"] == pytest.approx(1, abs=0.01)
    again = evaluate(given, model, tokens, batch_size=1)
    for name, value in found.items():
        one = metrics(again, name)["fraction_variance_unexplained_typical"]
        assert one == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_text_without_a_token_to_evaluate_is_refused(model, tokens, sites):
    special = replace(tokens, ordinary=torch.zeros_like(tokens.ordinary))
    identity = {"identity": IdentityConfig().build(sites.at_target())}
    with pytest.raises(InputError, match="at least one token to evaluate, got 84 special ones"):
        evaluate(identity, model, special)
    assert evaluate(identity, model, special, exclude_special=False).dictionaries
