"""Paths: their attributions add up, and are those of one backward pass and of interventions."""

from collections import defaultdict

import pytest
import torch

from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths import children
from dictlearn.circuits.paths.described import path_nodes
from dictlearn.circuits.paths.graph import paths_to_graph
from dictlearn.circuits.paths.path import NodeFilter
from dictlearn.circuits.paths.search import exhaustive_paths, greedy_paths
from dictlearn.circuits.targets import FeatureTarget, Logit, LogitDifference, Several, TopLogits
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.lm.hooks import hooked
from dictlearn.lm.sites import hook_sites
from tests.unit.circuits.conftest import standardized
from tests.unit.circuits.paths.sums import (
    INNER,
    every_path,
    incoming_gap,
    pruned,
    through_heads,
)
from tests.unit.circuits.test_local_model import final_of

HOPS = {"nothing": 99, "transcoders": 99, "a skip": 99, "a mixture": 3}
TARGET = LogitDifference(5, 9)


@pytest.mark.parametrize("title", HOPS)
def test_paths_add_up(model, mixes, prompt, title):
    """Greedy search without a limit finds all paths; what they carry is what there is."""
    ids, dictionaries = prompt[:2], mixes[title]
    found = every_path(model, ids, dictionaries, TARGET, HOPS[title])
    every = {path.nodes: path.attribution for path in
             exhaustive_paths(model, ids, dictionaries, TARGET, depth=HOPS[title])}  # fmt: skip
    assert len(found) == len(every)
    assert {path.nodes: path.attribution for path in found} == pytest.approx(every, abs=1e-12)
    graph = paths_to_graph(found)
    size = max(abs(value) for value in graph.nodes.values())
    assert incoming_gap(graph) < 1e-12 * size
    with local_model(model, ids, dictionaries) as local:
        (explained,) = TARGET.functions(local)
        assert found[0].attribution == pytest.approx(local.value(explained.function), rel=1e-12)
        row = local.contributions([explained.function])[0].tolist()
        wanted = {node: value for node, value in zip(path_nodes(local), row, strict=True) if value}
    assert through_heads(found) == pytest.approx(wanted, abs=1e-12)
    if HOPS[title] == 99:
        assert pruned(graph) < 1e-12 * size
        ends = sum(v for n, v in graph.nodes.items() if n.kind not in (*INNER, NodeKind.PRUNED))
        assert ends == pytest.approx(found[0].attribution, abs=1e-12 * size)


@pytest.mark.parametrize("title", ["transcoders", "codes"])
def test_a_feature_passes_on_what_it_contributes(model, mixes, prompt, title):
    codes = {"z": mixes["a mixture"]["z"], "mlp": mixes["transcoders"]["mlp1"]}
    require_shares(model, prompt[:2], codes if title == "codes" else mixes[title])


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_features_of_every_kind_pass_on_what_they_contribute(small, trained, prompt, kind):
    require_shares(small, prompt[:2], {"own": trained[kind]})


def require_shares(model, ids, dictionaries):
    """Paths through a feature have its contribution times shares in its coefficient, or score."""
    found = defaultdict(lambda: defaultdict(float))
    for path in every_path(model, ids, dictionaries, TARGET):
        before = [n for n in path.nodes if n.kind == NodeKind.FEATURE and n != path.nodes[-1]]
        if len(before) == 1 and path.nodes[-1].kind != NodeKind.HEAD:
            found[before[0]][path.nodes[-1]] += path.attribution
    with local_model(model, ids, dictionaries) as local:
        (explained,) = TARGET.functions(local)
        nodes, row = path_nodes(local), local.contributions([explained.function])[0]
        for i in local.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0].tolist():
            (reading,) = local.of_nodes(torch.tensor([i]))
            binary = dictionaries[nodes[i].dictionary].traits.binary
            scale = abs(local.value(reading)) if binary else float(local.nodes.values[i])
            shares = (row[i] * local.contributions([reading])[0] / scale).tolist()
            shares[-1] += float(row[i]) - sum(shares)  # where a score is negative
            own = found[nodes[i]]
            assert sum(own.values()) == pytest.approx(float(row[i]), abs=1e-12)
            for node, share in zip(nodes, shares, strict=True):
                assert own[node] == pytest.approx(share, rel=1e-9, abs=1e-12)


def test_a_head_is_an_intervention(model, mixes, prompt):
    """Taking off what a head writes from one token changes a target by that contribution."""
    patterns, dictionaries = {}, mixes["transcoders"]
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)]

    def note(pattern, hook):
        patterns[int(hook.name.split(".")[1])] = pattern[0].detach()

    with local_model(model, prompt, dictionaries, cut_heads=True) as local:
        target = TARGET.functions(local)[0].function
        edges = local.contributions([target])[0]
        held = {hook: value.clone() for hook, value in local.run.held.items()}
        constant = {hook: leaf.detach().clone() for hook, leaf in local.run.leaves.items()}
        constant |= {f"blocks.{layer}.attn.hook_z": after.detach().clone()
                     for layer, (_, after) in local.run.heads.items()}  # fmt: skip
        with hooked(model, [(name, note) for name in names]):
            before = final_of(model, prompt, local, held, constant)
        heads = local.nodes.of_kind(NodeKind.HEAD).nonzero()[:, 0]
        assert len(heads) == 2 * model.cfg.n_heads * len(prompt)
        own = [heads[local.nodes.owners[heads] == layer] for layer in (0, 1)]
        strongest = [some[edges[some].abs().topk(4).indices] for some in own]
        for node in torch.cat(strongest).tolist():
            layer, head = int(local.nodes.owners[node]), int(local.nodes.features[node])
            at, n, z = int(local.nodes.positions[node]), model.cfg.n_heads, model.cfg.d_head
            values = local.run.values[layer].detach().unflatten(1, (-1, z))
            written = values[at, head * values.shape[1] // n] * patterns[layer][head, -1, at]
            hook = f"blocks.{layer}.attn.hook_z"
            changed = constant | {hook: constant[hook].clone()}
            changed[hook][-1, head * z : (head + 1) * z] -= written
            after = final_of(model, prompt, local, held, changed)
            effect = float((after - before)[target.position] @ target.reader)
            assert float(edges[node]) == pytest.approx(-effect, abs=1e-9)


def test_norms_are_shared_by_their_linear_map(biased, transcoders, prompt):
    """`(gain * reader, centred) / scale` at the stream, not the ratio of the norm's totals."""
    with local_model(biased, prompt, transcoders, cut_heads=True) as local:
        function = TARGET.functions(local)[0].function
        row = local.contributions([function])[0]
        attention, norm = biased.blocks[1].attn, biased.ln_final
        v = local.run.values[1].detach().unflatten(1, (2, -1))
        scale = local.run.held["ln_final.hook_scale"][0, -1]
    seen = {}

    def note(tensor, hook):
        seen[hook.name] = tensor[0].detach()

    names = ["blocks.1.attn.hook_pattern", "ln_final.hook_in"]
    with torch.no_grad(), hooked(biased, [(name, note) for name in names]):
        biased(prompt[None])
    x, pattern = seen["ln_final.hook_in"][-1], seen["blocks.1.attn.hook_pattern"][:, -1]
    gain, bias = norm.weight.detach(), norm.bias.detach()
    vector = function.reader * gain
    vector = (vector - vector.mean()) / scale
    written = torch.einsum("hs,shd,hde->hse", pattern, v, attention.W_O.detach())
    of_heads = row[local.nodes.of_kind(NodeKind.HEAD)].view(2, 2, -1)[1]
    torch.testing.assert_close(of_heads, written @ vector, rtol=1e-10, atol=1e-12)
    total = (x - x.mean()) / scale * gain
    ratio = function.reader @ total / (function.reader @ x)
    assert float(vector @ x) == pytest.approx(float(function.reader @ total), rel=1e-10)
    assert (written @ function.reader * ratio - of_heads).abs().max() > 0.05 * of_heads.abs().max()
    assert bias.any()


def test_greedy_search_keeps_the_best(biased, transcoders, prompt, monkeypatch):
    ids, width = prompt[:4], 3
    every = list(exhaustive_paths(biased, ids, transcoders, TARGET, depth=3))
    level, wanted = [every[0]], [every[0]]
    for hops in (1, 2, 3):
        longer = [
            sorted((p for p in every if len(p.steps) == hops + 1 and p.nodes[:-1] == parent.nodes),
                   key=lambda p: -p.attribution)[:width]
            for parent in level
        ]  # fmt: skip
        level = sorted((p for some in longer for p in some), key=lambda p: -p.attribution)[:width]
        wanted += level
    found = greedy_paths(biased, ids, transcoders, TARGET, iterations=3, width=width)
    assert [str(path) for path in found] == [str(path) for path in wanted]
    assert any(len(path.steps) == 4 for path in found)
    monkeypatch.setattr(children, "_AT_ONCE", 1)
    again = greedy_paths(biased, ids, transcoders, TARGET, iterations=3, width=width)
    assert [path.nodes for path in again] == [path.nodes for path in found]


def test_filters_hold_for_every_node(biased, transcoders, prompt):
    def late(node):
        return node.position != 0

    fits = (late, NodeFilter(kinds=(NodeKind.HEAD, NodeKind.TOKEN, NodeKind.FEATURE)))
    every = exhaustive_paths(biased, prompt[:3], transcoders, TARGET)
    wanted = [p.nodes for p in every if all(f(node) for f in fits for node in p.nodes[1:])]
    some = exhaustive_paths(biased, prompt[:3], transcoders, TARGET, filters=fits)
    assert [path.nodes for path in some] == wanted
    assert len(wanted) > 10
    some = greedy_paths(biased, prompt[:3], transcoders, TARGET, filters=fits, width=4)
    assert {path.nodes for path in some} <= set(wanted)
    (root,) = greedy_paths(biased, prompt, transcoders, TARGET, filters=[lambda node: False])
    assert {end.node.kind for end in root.steps[0].ends} == {NodeKind.ERROR, NodeKind.BIAS}


def test_every_kind_and_target(small, trained, prompt):
    """Also several targets, features as targets, and vectors of values as what is replaced."""
    values = hook_sites(small, "blocks.1.attn.hook_v")
    after = {"v": standardized(SAEConfig(n_features=16).build(values), small, prompt)}
    for name, dictionary in trained.items():
        targets = [Logit(5), TopLogits(n=2)]
        if dictionary.n_features:
            targets.append(FeatureTarget(name, 1))
        paths = greedy_paths(small, prompt, {name: dictionary} | after, Several(targets), width=9)
        assert incoming_gap(paths_to_graph(paths)) < 1e-10
        roots = [path for path in paths if len(path.steps) == 1]
        assert len(roots) == 3 + bool(dictionary.n_features)


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(biased, trained, transcoders, prompt):
    for settings in ({"width": 0}, {"iterations": -1}, {"iterations": 1.5}):
        with pytest.raises(InputError, match=r"at least 0 iterations and a width of at least 1"):
            greedy_paths(biased, prompt, {}, TARGET, **settings)
    with pytest.raises(InputError, match="depth of at least 0, got -1"):
        next(exhaustive_paths(biased, prompt, {}, TARGET, depth=-1))
    with pytest.raises(InputError, match="one sequence of ids"):
        greedy_paths(biased, prompt[None], {}, TARGET)
    with pytest.raises(ProvenanceError, match="trained on model"):
        greedy_paths(biased, prompt, {"sae": trained["sae"]}, TARGET)
    for search in (greedy_paths, exhaustive_paths):
        own = {"sae": trained["sae"]}
        assert next(iter(search(biased, prompt, own, TARGET, allow_other_model=True)))


def test_a_search_ends_where_all_paths_end(biased, prompt):
    """Iterations without a path to continue would otherwise run on."""
    some = greedy_paths(biased, prompt, {}, TARGET, iterations=9, width=2)
    assert greedy_paths(biased, prompt, {}, TARGET, iterations=1 << 60, width=2) == some


def test_a_search_that_is_closed_leaves_nothing(biased, transcoders, prompt):
    flags = [p.requires_grad for p in biased.parameters()]
    search = exhaustive_paths(biased, prompt, transcoders, TARGET)
    assert len(next(search).steps) == 1
    search.close()
    assert [p.requires_grad for p in biased.parameters()] == flags
