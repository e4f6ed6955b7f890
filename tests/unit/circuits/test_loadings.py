"""`head_loadings`: the parts of an edge by the head that its routes pass last."""

import warnings

import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.loadings import DIRECT, head_loadings
from dictlearn.circuits.local_model import LocalModel, local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import FeatureTarget, LogitDifference, Several
from dictlearn.circuits.unit_pass import require_heads
from dictlearn.circuits.weights import de_embedding, virtual_weights
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.lm.hooks import hooked
from dictlearn.lm.mlps import mlp_sites
from tests.unit.circuits.conftest import final_of, measured, standardized

QUIET = {"progress": False, "allow_other_model": True}
TARGET = LogitDifference(3, 4)


def loadings_of(model, graph, dictionaries, edges=None, target=TARGET):
    return head_loadings(model, graph, dictionaries, target, edges, progress=False)


def graph_of(model, prompt, dictionaries, target=TARGET, n_features=6):
    return attribute(model, prompt, dictionaries, target, n_features=n_features, **QUIET)


@pytest.mark.parametrize("title", ["nothing", "a mixture"])
def test_parts_add_up_to_the_edges(model, mixes, prompt, title):
    """From every node to targets and features; over all nodes, to what each head contributes."""
    graph = graph_of(model, prompt, mixes[title], n_features=1)
    n_rows, n = graph.rows.shape
    edges = [(node, row) for row in range(n_rows) for node in range(n)]
    table = loadings_of(model, graph, mixes[title], edges)
    sums = table.groupby(["source", "target"], sort=False).loading.sum()
    assert list(sums.index) == [
        (graph.name(node), graph.row_names()[row]) for node, row in edges
    ], "one block for each edge, in order"
    found = torch.tensor(sums.to_numpy()).view(n_rows, n)
    sizes = graph.rows.abs().sum(dim=1, keepdim=True)
    assert float(((found - graph.rows).abs() / sizes).max()) < 1e-9

    of_target = table[table.target == graph.labels[0]]
    by_head = of_target.groupby(["layer", "head"]).loading.sum()
    with local_model(model, prompt, mixes[title], cut_heads=True) as local:
        rows = local.contributions([TARGET.functions(local)[0].function])[0]
    for (layer, head), loading in by_head.items():
        own = local.nodes.of_kind(NodeKind.HEAD)
        own &= (local.nodes.owners == layer) & (local.nodes.features == head)
        own = own if layer != DIRECT else ~local.nodes.of_kind(NodeKind.HEAD)
        assert loading == pytest.approx(float(rows[own].sum()), rel=1e-9, abs=1e-9)
    apart = of_target[of_target.layer == DIRECT].set_index("source").loading
    at = dict(zip(apart.index, graph.nodes.positions.tolist(), strict=True))
    assert all(part == 0 for name, part in apart.items() if 0 <= at[name] < len(prompt) - 1)
    alone = of_target[of_target.layer <= 0]
    assert (alone.loading == alone.alone).all(), "no head is before those of the first layer"


class Held:
    """Passes in which everything is held but what a test changes."""

    def __init__(self, model, prompt, dictionaries):
        self.model, self.prompt, self.dictionaries = model, prompt, dictionaries
        with local_model(model, prompt, dictionaries) as local:
            self.local = local
            self.target = TARGET.functions(local)[0].function
            self.held = {hook: value.clone() for hook, value in local.run.held.items()}
            self.leaves = {hook: leaf.detach().clone() for hook, leaf in local.run.leaves.items()}
        self.outputs = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
        self.before, self.clean = self.run({}, self.leaves)

    def run(self, outputs, leaves):
        """The target with these outputs of heads and constants, and the outputs of heads."""
        seen = {}
        keep = [(name, lambda z, hook, name=name: seen.update({name: z})) for name in self.outputs]
        with warnings.catch_warnings(), hooked(self.model, keep):
            warnings.simplefilter("ignore")
            final = final_of(self.model, self.prompt, self.local, self.held | outputs, leaves)
        return float(final[self.target.position] @ self.target.reader), seen

    def without(self, node):
        """The constants less what one node writes."""
        leaves, nodes = {hook: leaf.clone() for hook, leaf in self.leaves.items()}, self.local.nodes
        at = int(nodes.positions[node])
        if nodes.kinds[node] == NodeKind.TOKEN:
            leaves["hook_embed"][at] = 0.0
        else:
            own = list(self.dictionaries.values())[int(nodes.owners[node])]
            leaves[own.sites.target.hook][at] -= own.atoms[nodes.features[node]] * float(
                nodes.values[node]
            )
        return leaves

    def loading(self, z, layer, head):
        """The change of the target where one head has its part of other outputs `z`."""
        clean = self.clean[self.outputs[layer]]
        lost = clean.clone(memory_format=torch.contiguous_format)
        width = clean[0, 0].numel() // self.model.cfg.n_heads
        columns = slice(head * width, (head + 1) * width)
        lost.flatten(2)[..., columns] = z[self.outputs[layer]].flatten(2)[..., columns]
        after, _ = self.run(self.clean | {self.outputs[layer]: lost}, self.leaves)
        return self.before - after


def largest_gap(model, prompt, dictionaries):
    """The largest difference between loadings and changes of the target with all else held: heads
    lose what a node brings about in them, through the heads before them or, alone, directly."""
    held, graph = Held(model, prompt, dictionaries), graph_of(model, prompt, dictionaries)
    nodes, first = graph.nodes, held.outputs[0]
    of_first = nodes.of_kind(NodeKind.FEATURE) & (nodes.owners == 0)
    feature = int(graph.rows[0].abs().masked_fill(~of_first, 0).argmax())
    token = int((nodes.of_kind(NodeKind.TOKEN) & (nodes.positions == 2)).nonzero())
    table = loadings_of(model, graph, dictionaries, [(feature, 0), (token, 0)])
    assert table.loading[table.layer != DIRECT].abs().max() > 1e-3
    gaps = []
    for node, layers in ((feature, [1]), (token, [0, 1])):
        _, z = held.run({}, held.without(node))
        _, only = held.run({first: held.clean[first]}, held.without(node))
        own = table[(table.source == graph.name(node)) & table.layer.isin(layers)]
        assert len(own) == len(layers) * model.cfg.n_heads
        for row in own.itertuples():
            gaps.append(row.loading - held.loading(z, row.layer, row.head))
            if row.layer == 1:
                gaps.append(row.alone - held.loading(only, row.layer, row.head))
    return max(map(abs, gaps))


def test_a_loading_is_what_the_head_loses_with_all_else_held(model, mixes, prompt):
    assert largest_gap(model, prompt, mixes["transcoders"]) < 1e-9


@pytest.fixture
def made(small, prompt):
    """A transcoder in each of the two layers."""
    sites = [mlp_sites(small, layer) for layer in (0, 1)]
    configs = [TopKTranscoderConfig(n_features=32, k=6).build(s, seed=1) for s in sites]
    return {f"mlp{i}": standardized(one, small, prompt) for i, one in enumerate(configs)}


def test_only_the_heads_that_write_carry_an_edge(native, made, prompt):
    """Heads 0.1 and 1.0 write nothing. Closed forms from weights, patterns and scales."""
    model = native().double()
    for layer, head in ((0, 1), (1, 0)):
        output = model.original_model.layers[layer].attn.o.weight
        output.data[:, 8 * head : 8 * (head + 1)] = 0
    (n0, n1), (A0, A1) = measured(model, prompt, made)
    s, t = 3, 6
    with local_model(model, prompt, made) as local:
        up, down = (
            int(local.acts[name].indices[local.acts[name].rows() == at][0])
            for name, at in (("mlp0", s), ("mlp1", t))
        )
        value = float(local.acts["mlp0"].to_dense()[s, up])
    target = FeatureTarget("mlp1", down, t)
    graph = graph_of(model, prompt, made, target)
    token = f"token {graph.tokens[s]!r} @ {s}"
    edges = [(f"mlp0 {up} @ {s}", 0), (token, target_name := f"mlp1 {down} @ {t}")]
    found = loadings_of(model, graph, made, edges, target).set_index(["source", "layer", "head"])
    assert set(found.target) == {target_name}

    read = n1["ln1"][s] * n1["ln2"][t] * A1[1, t, s]
    V = virtual_weights(model, *made.values(), features=[down], heads=[(1, 1)])[0, up]
    parts = found.loc[edges[0][0]]
    assert parts.loading[1, 1] == pytest.approx(float(value * read * V), rel=1e-6)
    assert abs(parts.loading[1, 1]) > 1e-3
    assert (parts.drop((1, 1))[["loading", "alone"]] == 0).all(axis=None)

    parts = found.loc[token]
    chains = [(0, 0)], [(1, 1)], [(0, 0), (1, 1)]
    D0, D1, D01 = (de_embedding(model, made["mlp1"], [down], heads=chain)[0, prompt[s]]
                   for chain in chains)  # fmt: skip
    chain = (A1[1, t] * n1["ln1"]) @ A0[0, :, s] * n0["ln1"][s] * n1["ln2"][t] * D01
    first = A0[0, t, s] * n0["ln1"][s] * n1["ln2"][t] * D0
    assert parts.loading[0, 0] == parts.alone[0, 0] == pytest.approx(float(first), rel=1e-6)
    assert parts.alone[1, 1] == pytest.approx(float(read * D1), rel=1e-6)
    assert parts.loading[1, 1] == pytest.approx(float(read * D1 + chain), rel=1e-6)
    assert abs(float(chain)) > 1e-3
    assert (parts.drop([(0, 0), (1, 1)]).loading == 0).all()


def test_the_strongest_edges_by_default(small, prompt, made):
    graph = graph_of(small, prompt, made)
    table = head_loadings(small, graph, made, TARGET, n=3)
    strongest = graph.edges_to_pandas().head(3)
    sums = table.groupby(["source", "target"], sort=False).loading.sum()
    assert list(sums.index) == list(zip(strongest.source, strongest.target, strict=True))
    assert list(sums) == pytest.approx(list(strongest.weight), rel=1e-9)
    none = loadings_of(small, graph, made, [])
    assert list(none.columns) == list(table.columns)
    assert len(none) == 0


READ = LocalModel.read_by_heads


@pytest.mark.parametrize(
    "mutant",
    [
        lambda local, layer, g: READ(local, layer, g).flip(1),
        lambda local, layer, g: READ(local, layer, g).roll(1, dims=2),
    ],
    ids=["heads in another order", "tokens in another order"],
)
def test_mistakes_are_seen(small, prompt, made, mutant, monkeypatch):
    monkeypatch.setattr(LocalModel, "read_by_heads", mutant)
    monkeypatch.setattr("dictlearn.circuits.loadings._require_same", lambda *edges: None)
    assert largest_gap(small, prompt, made) > 1e-3


def test_a_head_that_is_dropped_is_missed(small, prompt, monkeypatch):
    graph = graph_of(small, prompt, {})

    def dropped(local, layer, gradients):
        found = READ(local, layer, gradients)
        found[:, 1] = 0
        return found

    monkeypatch.setattr(LocalModel, "read_by_heads", dropped)
    with pytest.raises(InputError, match="edges are not those of the graph"):
        loadings_of(small, graph, {})


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, prompt, made, native):
    graph = graph_of(small, prompt, made)
    twice = graph_of(small, prompt, made, Several([TARGET, TARGET]))
    for arguments, told in (
        (([(len(graph.nodes), 0)],), f"node from 0 to {len(graph.nodes) - 1}"),
        (([(0, -1)],), "row from 0 to 6, got -1"),
        (([(0, 1.5)],), "row from 0 to 6, got 1.5"),
        (([("mlp0 99 @ 3", 0)],), "no node 'mlp0 99 @ 3'; did you mean"),
        (([(0, "<3> - <5>")],), "no row '<3> - <5>'; did you mean '<3> - <4>'"),
        ((None, LogitDifference(3, 5)), "target of the graph, '<3> - <4>', got '<3> - <5>'"),
    ):
        with pytest.raises(InputError, match=told):
            loadings_of(small, graph, made, *arguments)
    with pytest.raises(InputError, match="several rows are called '<3> - <4>'"):
        loadings_of(small, twice, made, [(0, "<3> - <4>")], Several([TARGET, TARGET]))
    with pytest.raises(InputError, match=r"got layers \[1\] without hooks"):
        require_heads({0: None}, 2)
    with pytest.raises(InputError, match="required the dictionaries of the graph"):
        loadings_of(small, graph, {})
    with pytest.raises(InputError, match="edges are not those of the graph"):
        loadings_of(native(seed=9).double(), graph, made)
