"""`attribute_all` and `aggregate_graphs`: circuits over several prompts."""

from dataclasses import replace

import pytest
import torch

from dictlearn.circuits import attribute as module
from dictlearn.circuits.aggregate import aggregate_graphs
from dictlearn.circuits.attribute import attribute, attribute_all
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import LogitDifference, Several
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.metrics.intervals import jackknife_interval
from tests.unit.circuits.graphs import known_graph

QUIET = {"progress": False, "allow_other_model": True}
TARGET = Several([LogitDifference(3, 4), LogitDifference(3, 7)])
WHOLE = {"node_share": 1.0, "edge_share": 1.0}


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, 40, (n,), generator=generator) for n in (6, 9, 7)]


def known(dtype=torch.float64, **changes):
    return replace(known_graph(dtype=dtype), **changes)


def node_of(table, name):
    return table.set_index("name").loc[name]


@pytest.mark.parametrize("kind", ["codebook", "transcoder"])
@pytest.mark.parametrize("by_position", [False, True])
def test_contributions_add_up_to_the_mean_target(small, trained, prompts, kind, by_position):
    dictionaries = {"own": trained[kind]}
    graphs = list(attribute_all(small, prompts, dictionaries, TARGET, n_features=20, **QUIET))
    found = aggregate_graphs(iter(graphs), by_position=by_position)
    values = [float(g.weights @ g.targets.values) for g in graphs]
    mean = sum(values) / 3
    assert found.n_prompts == 3
    assert found.target.value == pytest.approx(mean, rel=1e-9)
    left_out = torch.tensor([(sum(values) - value) / 2 for value in values])
    assert found.target == pytest.approx(jackknife_interval(mean, left_out), rel=1e-6)
    assert found.nodes.direct.sum() == pytest.approx(mean, rel=1e-9)
    assert found.nodes.influence.is_monotonic_decreasing
    total = sum(float(g.influence().sum()) for g in graphs) / 3
    assert found.nodes.influence.sum() == pytest.approx(total, rel=1e-9)
    into = found.edges.groupby("target").weight.sum()
    assert into["target"] == pytest.approx(mean, rel=1e-9)

    expected, edges = dict[str, float](), dict[tuple[str, str], float]()
    for graph in graphs:
        keep, links = graph.pruned()
        n = len(graph.weights)
        names = [called(graph, node, by_position) for node in range(len(graph.nodes))]
        for row, node in enumerate(graph.row_nodes.tolist(), start=n):
            if keep[node]:
                value = float(graph.rows[row].sum()) / 3
                expected[names[node]] = expected.get(names[node], 0.0) + value
        for row, source in links.nonzero().tolist():
            end = "target" if row < n else names[int(graph.row_nodes[row - n])]
            weight = float(graph.weights[row]) if row < n else 1.0
            pair, value = (names[source], end), weight * float(graph.rows[row, source]) / 3
            edges[pair] = edges.get(pair, 0.0) + value
    assert len(expected) > 3
    assert set(into.index) == {"target", *expected}
    assert {name: into[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)
    kept = found.edges[found.edges.source != "pruned"]
    assert dict(zip(zip(kept.source, kept.target, strict=True), kept.weight, strict=True)) == (
        pytest.approx(edges, rel=1e-9, abs=1e-12)
    )


def called(graph, node, by_position):
    """A node as an aggregate names it."""
    kind, position = int(graph.nodes.kinds[node]), int(graph.nodes.positions[node])
    if kind == NodeKind.BIAS:
        return "bias"
    name = "position" if kind == NodeKind.POSITION else graph.name(node).rpartition(" @ ")[0]
    return f"{name} @ {position - len(graph.tokens)}" if by_position else name


def test_means_count_prompts_without_a_node_as_0():
    """`c 0` contributes 3.25 and 9.75 in two graphs and is absent from the third."""
    features = known().nodes.features.clone()
    features[2] = 1  # 'c 1' in place of 'c 0'
    other = known(nodes=replace(known().nodes, features=features))
    graphs = [known(), known(rows=3 * known().rows), other]
    two, three = aggregate_graphs(graphs[:2]), aggregate_graphs(graphs)
    assert list(node_of(two.nodes, "c 0")[["direct", "low", "high"]]) == pytest.approx(
        list(jackknife_interval(6.5, torch.tensor([9.75, 3.25])))
    )
    left_out = (13 - torch.tensor([3.25, 9.75, 0.0])) / 2
    found = node_of(three.nodes, "c 0")
    assert list(found[["direct", "low", "high"]]) == pytest.approx(
        list(jackknife_interval(13 / 3, left_out)), rel=1e-6
    )
    assert (found.present, found.activation) == (pytest.approx(2 / 3), 2.0)
    assert (found.kind, found.dictionary, found.feature) == ("feature", "c", 0)
    edge = three.edges.set_index(["source", "target"]).loc["a 2", "c 0"]
    assert (edge.kept, edge.weight) == (pytest.approx(2 / 3), pytest.approx(4 / 3))
    one = aggregate_graphs(graphs[:1])
    assert one.nodes[["low", "high"]].isna().all(axis=None)
    assert one.target[0] == pytest.approx(4.1875)
    assert {"token ' day'", "position", "remainder of MLP 1", "bias",
            "error of blocks.2.hook_mlp_out"} <= set(one.nodes.name)  # fmt: skip


def test_a_feature_at_several_tokens_is_one_unless_positions_count():
    """Node 0 becomes 'b 3' at the token before that of node 1: edges of 1 and 2 into `c 0`."""
    nodes = known().nodes
    owners, features, hooks = (
        getattr(nodes, name).clone() for name in ("owners", "features", "hooks")
    )
    owners[0], features[0], hooks[0] = owners[1], features[1], hooks[1]
    graph = known(nodes=replace(nodes, owners=owners, features=features, hooks=hooks))
    found, influence = aggregate_graphs([graph], **WHOLE), graph.influence()
    both = node_of(found.nodes, "b 3")
    assert (both.activation, both.direct, both.kept) == (1.0, -0.75, 1.0)
    assert both.influence == pytest.approx(float(influence[:2].sum()))
    weights = found.edges.set_index(["source", "target"]).weight
    assert weights["b 3", "c 0"] == 3.0
    assert weights["b 3", "b 3"] == -0.5
    assert weights["pruned", "target"] == pytest.approx(0.75 * 0.25), "constants are pruned"
    assert weights["b 3", "target"] == pytest.approx(0.25 * -3.0)
    assert weights["c 0", "target"] == pytest.approx(0.75 * 4 + 0.25 * 1)

    apart = aggregate_graphs([graph], by_position=True, **WHOLE)
    by_name = apart.nodes.set_index("name")
    assert by_name.activation["b 3 @ -2"] == 0.5
    assert by_name.activation["b 3 @ -1"] == 1.5
    assert by_name.position["position @ -2"] == -2
    assert by_name.position["bias"] == 0
    weights = apart.edges.set_index(["source", "target"]).weight
    assert (weights["b 3 @ -2", "c 0 @ -1"], weights["b 3 @ -1", "c 0 @ -1"]) == (1.0, 2.0)
    assert apart.nodes.direct.sum() == pytest.approx(found.nodes.direct.sum())


def test_graphs_are_those_of_single_prompts(small, trained, prompts, monkeypatch):
    """With a target each; and the fingerprint of the model does not depend on prompts."""
    calls = []
    origin = module.origin
    monkeypatch.setattr(module, "origin", lambda *a, **k: calls.append(a) or origin(*a, **k))
    own, targets = {"own": trained["topk_sae"]}, [LogitDifference(3, other) for other in (4, 5, 6)]
    found = list(attribute_all(small, prompts, own, targets, n_features=4, **QUIET))
    assert len(calls) == 1
    for graph, prompt, target in zip(found, prompts, targets, strict=True):
        single = attribute(small, prompt, own, target, n_features=4, **QUIET)
        assert graph.rows.equal(single.rows)
        assert graph.labels == single.labels
        assert graph.about == single.about
        assert graph.about["settings"] == {
            "prompt": "ids", "n_features": 4, "allow_other_model": True,
        }  # fmt: skip
    assert len({graph.labels[0] for graph in found}) == 3


@pytest.mark.untyped
def test_what_does_not_fit_is_refused_before_any_work(small, trained, prompts, native):
    own = {"own": trained["sae"]}
    for options, told in (
        ({"prompts": []}, "at least one prompt"), ({"prompts": "text"}, "got one alone"),
        ({"prompts": prompts[0]}, "got one alone"), ({"target": [TARGET]}, "of 3 prompts, got 1"),
        ({"n_features": -1}, "at least 0"), ({"prompts": [prompts[0], "text"]}, "tokenizer"),
        ({"prompts": [prompts[0], prompts[0][:0]]}, "one sequence"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            attribute_all(small, **({"prompts": prompts, "dictionaries": own} | options), **QUIET)
    with pytest.raises(ProvenanceError, match="own"):
        attribute_all(native(seed=9).double(), prompts, own)
    with pytest.raises(InputError, match="at least one graph"):
        aggregate_graphs([])
    with pytest.raises(InputError, match=r"n_features \[10, 20, 30\] and \[10, 20, 31\]"):
        aggregate_graphs([known(), known(n_features=[10, 20, 31])])
