"""The local replacement model: contributions add up, and edges are interventions."""

import pytest
import torch

from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget, Logit, LogitDifference, TopLogits
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.lm.mlps import mlp_sites
from tests.unit.circuits.conftest import final_of, standardized

MIXES = ("nothing", "transcoders", "a skip", "a mixture")


def some_functions(local, n=25):
    """Logits, differences of logits, and features of every dictionary."""
    targets = (Logit(5), LogitDifference(5, 9), TopLogits(n=3), Logit(7, position=2))
    functions = [one.function for target in targets for one in target.functions(local)]
    features = local.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    return functions + local.of_nodes(features[:: max(1, len(features) // n)])


def gap(local, functions):
    """The largest relative difference between sums of contributions and values."""
    rows = local.contributions(functions)
    values = torch.tensor([local.value(f) for f in functions], dtype=rows.dtype)
    return float(((rows.sum(dim=1) - values).abs() / values.abs().clamp_min(1e-3)).max())


@pytest.mark.parametrize("cut_heads", [False, True])
@pytest.mark.parametrize("title", MIXES)
def test_contributions_add_up(model, mixes, prompt, title, cut_heads):
    with local_model(model, prompt, mixes[title], cut_heads=cut_heads) as local:
        assert len(local.run.heads) == (model.cfg.n_layers if cut_heads else 0)
        assert gap(local, some_functions(local)) < 1e-9
        logits = model(prompt[None])[0].detach()
        for position in (-1, 3):
            for token in (0, 17):
                (one,) = Logit(token, position).functions(local)
                wanted = local.run.head.logits(local.run.final.detach(), slice(None))[position]
                assert local.value(one.function) == pytest.approx(
                    float((wanted[token] - wanted.mean()).detach()), rel=1e-9
                )
                p = float(logits[position].softmax(dim=0)[token])
                assert one.probability == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_every_kind_adds_up_as_node_and_as_target(small, trained, prompt, kind):
    dictionary = trained[kind]
    after = TopKTranscoderConfig(n_features=16, k=4).build(mlp_sites(small, 1))
    own = {"own": dictionary}
    if len(dictionary.sites.target.hooks) == 1:  # and what comes after it reads it
        own["after"] = standardized(after, small, prompt)
    with local_model(small, prompt, own) as local:
        functions = some_functions(local, n=60)
        assert gap(local, functions) < 1e-9
        mine = [f for f in functions if f.dictionary == "own"]
        assert bool(mine) == bool(dictionary.n_features)
        for function in mine[:10]:
            x = local.sources["own"][function.position][None]
            if dictionary.traits.binary:
                of = dictionary.scores(x, torch.arange(dictionary.n_features))[0]
            else:
                of = dictionary.encode(x)[0]
            assert (of - local.value(function)).abs().min() < 1e-9


def test_the_clean_pass_is_what_is_explained(model, mixes, prompt):
    """With its errors, the local model is the model."""
    for dictionaries in mixes.values():
        with local_model(model, prompt, dictionaries) as local:
            found = local.run.head.logits(local.run.final.detach(), slice(None))
        cap = getattr(model.cfg, "output_logits_soft_cap", 0) or 0
        found = cap * (found / cap).tanh() if cap > 0 else found
        torch.testing.assert_close(found, model(prompt[None])[0], rtol=1e-6, atol=1e-6)


def test_an_edge_is_an_intervention_with_all_else_held(model, mixes, prompt):
    """Taking off what one node writes changes a target by the edge, all else held by hand."""
    dictionaries = mixes["transcoders"] | {"z": mixes["a mixture"]["z"]}
    with local_model(model, prompt, dictionaries) as local:
        target = LogitDifference(5, 9).functions(local)[0].function
        features = local.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
        edges = local.contributions([target])[0]
        nodes = features[edges[features].abs().topk(4).indices].tolist()
        nodes += (local.nodes.of_kind(NodeKind.TOKEN).nonzero()[:2, 0]).tolist()
        held = {hook: value.clone() for hook, value in local.run.held.items()}
        leaves = {hook: leaf.detach().clone() for hook, leaf in local.run.leaves.items()}
        names = list(dictionaries)
        for node in nodes:
            changed = {hook: leaf.clone() for hook, leaf in leaves.items()}
            at = int(local.nodes.positions[node])
            if local.nodes.kinds[node] == NodeKind.TOKEN:
                changed["hook_embed"][at] = 0.0
            else:
                dictionary = dictionaries[names[int(local.nodes.owners[node])]]
                written = dictionary.atoms[local.nodes.features[node]] * local.nodes.values[node]
                changed[dictionary.sites.target.hook][at] -= written
            after = final_of(model, prompt, local, held, changed)
            before = final_of(model, prompt, local, held, leaves)
            effect = (after - before)[target.position] @ target.reader
            assert float(edges[node] + effect) == pytest.approx(0, abs=1e-9)


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, trained, prompt):
    both = {"a": trained["sae"], "b": trained["transcoder"]}
    with pytest.raises(InputError, match="both replace"), local_model(small, prompt, both):
        pass
    with local_model(small, prompt, {"a": trained["sae"]}) as local:
        for target, told in (
            (Logit("x"), "tokenizer"), (Logit(40), "token from 0 to 39"),
            (Logit(3, position=9), "position from -9 to 8"),
            (LogitDifference(3, 3), "two different tokens"),
            (FeatureTarget("aa", 3), "did you mean 'a'"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=told):
                target.functions(local)


def test_nothing_is_left_on_the_model(small, trained, prompt):
    before = small(prompt[None])
    flags = [p.requires_grad for p in small.parameters()]
    with pytest.raises(KeyError), local_model(small, prompt, {"a": trained["sae"]}):
        raise KeyError
    assert torch.equal(small(prompt[None]), before)
    assert [p.requires_grad for p in small.parameters()] == flags
    assert not any(len(point.fwd_hooks) for point in small.hook_dict.values())
