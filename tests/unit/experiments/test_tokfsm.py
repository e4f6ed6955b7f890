"""Measures on TokFSM: oracles and brute force; the study at a tiny size, with its page."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.experiments.experiment import run_experiment, write_experiment_page
from dictlearn.experiments.tokfsm import measures, recipes
from dictlearn.experiments.tokfsm.study import TokFSMStudy, components
from dictlearn.interventions.inside import inside
from dictlearn.lm.forward import activations_at
from dictlearn.lm.native import NativeModelConfig, new_model
from dictlearn.lm.sites import hook_sites
from dictlearn.metrics.divergence import jensen_shannon_divergence
from dictlearn.synthetic.tokfsm import TokFSM

MACHINE = TokFSM(n_states=8, n_edges=3, base=3, context=10)
SHAPE = NativeModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32, n_ctx=10, d_vocab=4)
RESID, MLP = "blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module")
def model():
    model = new_model(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def test_predictions(model):
    ds = {MLP: CodebookConfig(n_codes=16).build(hook_sites(model, MLP))}
    found = measures.prediction(MACHINE, model, ds, 100)
    ids = MACHINE.sample(100, measures.HELD_OUT)
    with torch.no_grad(), inside(model, ds) as running:
        logits = model(ids)[:, :-1].flatten(0, 1)
    targets = ids[:, 1:].flatten()
    assert found["loss"] == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    unused = (running[MLP].acts.firing_counts() == 0).float().mean()
    assert found["dead"] == pytest.approx(float(unused))
    assert measures.prediction(MACHINE, model, {}, 100).keys() == {"loss", "accuracy"}


def test_all_codes_decide_everything_and_codes_that_write_nothing_decide_nothing(model):
    everything = {RESID: IdentityConfig().build(hook_sites(model, RESID))}
    found = measures.intervention_divergence(MACHINE, model, everything, {"all": [RESID]})
    assert found["none"] == 1
    assert found["all"] == pytest.approx(0, abs=1e-6)
    sae = TopKSAEConfig(n_features=8, k=2).build(hook_sites(model, MLP))
    sae.W_dec.data.zero_()
    nothing = measures.intervention_divergence(MACHINE, model, {MLP: sae}, {"all": [MLP]})
    assert nothing == {"none": 1.0, "all": 1.0}


def test_the_divergence_by_hand(model):
    d = CodebookConfig(n_codes=16).build(hook_sites(model, MLP))
    ids = MACHINE.bigrams()
    x = activations_at(model, ids, [MLP])[MLP][:, -1]
    y_hat, plain = d(x), []
    with torch.no_grad(), inside(model, {MLP: d}):
        wanted = model(ids)[:, -1].log_softmax(1)
        patched = []
        for a in range(8):
            for b in range(8):
                if a != b:
                    last = y_hat[b : b + 1, None]
                    put = [(MLP, lambda y, hook, last=last: torch.cat([d(y)[:, :-1], last], 1))]
                    got = model.run_with_hooks(ids[a : a + 1], fwd_hooks=put)[0, -1].log_softmax(0)
                    patched.append(jensen_shannon_divergence(got, wanted[b]))
                    plain.append(jensen_shannon_divergence(wanted[a], wanted[b]))
    by_hand = float(torch.stack(patched).mean() / torch.stack(plain).mean())
    found = measures.intervention_divergence(MACHINE, model, {MLP: d}, {"mlp": [MLP]})
    assert found["mlp"] == pytest.approx(by_hand, rel=1e-4)


def test_purity():
    model = new_model(SHAPE)
    sites = hook_sites(model, MLP)
    one = CodebookConfig(n_codes=1).build(sites)
    own = CodebookConfig(n_codes=8, similarity="euclidean").build(sites)
    own.codes.data[0] = activations_at(model, MACHINE.bigrams(), [MLP])[MLP][:, -1]
    found = measures.purities(MACHINE, model, {"one": one})
    assert found == {"bigram": {"one": 0.0}, "trigram": {"one": 0.0}}
    assert measures.purities(MACHINE, model, {"own": own})["bigram"]["own"] == 1.0


def test_the_precision_of_codes_by_brute_force(model):
    d = CodebookConfig(n_codes=12).build(hook_sites(model, MLP))
    base, n = new_model(SHAPE, seed=4), 80
    both = measures.state_precision(MACHINE, model, {MLP: d}, base, [MLP], n)
    found = both["all codes"]
    ids = MACHINE.sample(n, measures.HELD_OUT + 10**6)
    states = MACHINE.states(ids)
    with inside(model, {MLP: d}) as running:
        model(ids)
    code = running[MLP].acts.indices.view(ids.shape)
    precisions, best = [], {}
    first, second = (slice(0, n // 2), slice(n // 2, n))
    for c in range(12):
        here = [states[first][(code[first] == c) & (states[first] >= 0)],
                states[second][(code[second] == c) & (states[second] >= 0)]]  # fmt: skip
        if len(here[0]):
            state = int(torch.bincount(here[0], minlength=8).argmax())
            hits = int((here[1] == state).sum())
            if hits / int((states[second] == state).sum()) > 0.01:
                precisions.append(hits / len(here[1]))
                own = int((here[0] == state).sum())
                f1 = 2 * own / (len(here[0]) + int((states[first] == state).sum()))
                best.setdefault(state, []).append((f1, hits / len(here[1])))
    assert found["n_codes"] == len(precisions)
    assert found["codes"] == pytest.approx(sum(precisions) / len(precisions))
    assert 0 < found["neurons"] <= 1
    tops = [max(scores)[1] for scores in best.values()]
    assert both["best code of each state"]["n_codes"] == len(tops)
    assert both["best code of each state"]["codes"] == pytest.approx(sum(tops) / len(tops))
    assert found["chance"] == 1 / 8


def test_a_code_that_is_a_state_is_precise():
    """With activations that tell the state, codes and neurons are perfect."""
    model = new_model(SHAPE)
    states = MACHINE.bigrams()
    at = activations_at(model, states, ["hook_embed", RESID])[RESID][:, -1]
    d = CodebookConfig(n_codes=8, similarity="euclidean").build(hook_sites(model, RESID))
    d.codes.data[0] = at
    found = measures.state_precision(MACHINE, model, {RESID: d}, model, [RESID], 80)["all codes"]
    assert found["codes"] > 0.5 > found["chance"]


def test_components():
    names = ("blocks.0.attn.hook_z", "blocks.0.mlp.hook_out", "blocks.1.attn.hook_z")
    assert components(names) == {
        "layer 0 attention": [names[0]], "layer 0 MLP": [names[1]],
        "layer 1 attention": [names[2]], "all attention": [names[0], names[2]],
        "all MLP": [names[1]], "all": list(names),
    }  # fmt: skip


def test_the_study_at_a_tiny_size(tmp_path, monkeypatch):
    small = recipes.RECIPES["small"]
    tiny = replace(
        small, machine=MACHINE, model=SHAPE, n_codes=130, n_steps_ablated=2, n_evaluated=20,
        n_sampled=5, base=replace(small.base, steps=2, batch_size=4),
        finetune=replace(small.finetune, steps=2, batch_size=4, standardize_rows=64),
    )  # fmt: skip
    monkeypatch.setitem(recipes.RECIPES, "small", tiny)
    experiment = TokFSMStudy(n_seeds=2)
    found = run_experiment(experiment, tmp_path, show=False)
    assert len(found) == 2 * (6 + len(recipes.END_TO_END)) + len(recipes.ABLATIONS)
    assert all(math.isfinite(one["loss"]) for one in found.values())
    text = write_experiment_page(experiment, found, tmp_path).read_text()
    for row in (*recipes.TABLE_1, *recipes.ABLATIONS, *recipes.END_TO_END):
        assert f"| {row} |" in text.replace("\\", "")
    assert "nan" not in text
