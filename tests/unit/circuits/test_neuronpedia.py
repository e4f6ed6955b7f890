"""Graphs in the JSON of Neuronpedia and circuit-tracer: written, and read."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import torch

from dictlearn.circuits.attribute import attribute
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.neuronpedia import neuronpedia_graph
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Logit, Several, TopLogits
from dictlearn.core.errors import CorruptFileError, InputError
from tests.unit.circuits.graphs import HOOKS, known_graph

SCHEMA = json.loads(Path(__file__).with_name("neuronpedia_schema.json").read_text())
WHOLE = {"node_share": 1.0, "edge_share": 1.0}


def checked(data):
    """The data, which satisfy the schema, with links between nodes of different ids."""
    jsonschema.validate(data, SCHEMA)
    ids = [node["node_id"] for node in data["nodes"]]
    assert len(ids) == len(set(ids))
    assert {end for link in data["links"] for end in (link["source"], link["target"])} <= set(ids)
    return data


def by_id(data):
    return {node["node_id"]: node for node in data["nodes"]}


def test_nodes_have_the_ids_of_the_format():
    """Feature 3 of `b` is index 13: `a` has 10 features in the same layer."""
    nodes = by_id(checked(neuronpedia_graph(known_graph(), **WHOLE)))
    assert list(nodes) == [
        "0_2_0", "0_13_1", "2_0_1", "0_-2_0", "2_-1_0",
        "E_7_0", "E_9_1", "E_-1_0", "E_-1_1", "4_5_1", "4_-2_1",
    ]  # fmt: skip
    assert nodes["0_13_1"] | {"influence": 0} == {
        "node_id": "0_13_1", "feature": 13 * 14 // 2 + 13, "layer": "0", "ctx_idx": 1,
        "feature_type": "cross layer transcoder", "jsNodeId": "0_13-0", "clerp": "b 3 @ 1",
        "influence": 0, "activation": 1.5, "run_idx": 0, "reverse_ctx_idx": 0,
    }  # fmt: skip
    assert nodes["2_0_1"]["feature"] == 2 * 3 // 2 + 0
    assert nodes["E_9_1"]["jsNodeId"] == "E_9-1"
    assert nodes["E_9_1"]["feature"] == 1
    assert nodes["0_-2_0"]["clerp"] == "error of blocks.0.hook_resid_post @ 0"
    assert nodes["0_-2_0"]["feature"] == -1


def test_logits_carry_probabilities():
    nodes = by_id(neuronpedia_graph(known_graph(), **WHOLE))
    she, difference = nodes["4_5_1"], nodes["4_-2_1"]
    assert she["token_prob"] == 0.6
    assert she["clerp"] == 'Output " She" (p=0.600)'
    assert she["is_target_logit"]
    assert not difference["is_target_logit"]
    assert "token_prob" not in difference
    assert difference["clerp"] == " She - He"


def test_links_are_the_edges_of_the_pruned_graph():
    graph = known_graph()
    data = neuronpedia_graph(graph, **WHOLE)
    found = {(link["source"], link["target"]): link["weight"] for link in data["links"]}
    assert found == {
        ("2_0_1", "4_5_1"): 4.0, ("0_-2_0", "4_5_1"): -1.0, ("E_9_1", "4_5_1"): 1.0,
    } | {
        ("0_13_1", "4_-2_1"): -3.0, ("2_0_1", "4_-2_1"): 1.0,
        ("0_2_0", "2_0_1"): 1.0, ("0_13_1", "2_0_1"): 2.0, ("2_-1_0", "2_0_1"): 0.5,
        ("E_-1_1", "2_0_1"): -1.5, ("0_2_0", "0_13_1"): -0.5, ("E_9_1", "0_13_1"): 1.5,
        ("E_7_0", "0_2_0"): 0.25, ("E_-1_0", "0_2_0"): 0.25,
    }  # fmt: skip
    some = neuronpedia_graph(graph, node_share=0.9, edge_share=0.7)
    _, links = graph.pruned(0.9, 0.7)
    out = graph.nodes.of_kind(NodeKind.REMAINDER)
    assert 0 < len(some["links"]) == int(links[:, ~out].sum()) < len(data["links"])
    assert some["metadata"]["pruning_settings"] == {"node_threshold": 0.9, "edge_threshold": 0.7}


def test_what_is_left_out_is_told():
    metadata = neuronpedia_graph(known_graph(), **WHOLE)["metadata"]
    assert metadata["dictlearn"]["left_out"] == {"remainder": 1, "bias": 0}
    assert "Without constants" in metadata["info"]["description"]
    offsets = [(p["name"], p["layer"], p["offset"]) for p in metadata["dictlearn"]["dictionaries"]]
    assert offsets == [("a", 0, 0), ("b", 0, 10), ("c", 2, 0)]
    assert metadata["prompt"] == "One day"
    assert metadata["prompt_tokens"] == ["One", " day"]


def test_influence_is_cumulative():
    graph = known_graph()
    nodes = by_id(neuronpedia_graph(graph, **WHOLE))
    of_nodes = graph.influence()
    more = of_nodes[of_nodes >= of_nodes[1]].sum() / of_nodes.sum()
    assert nodes["0_13_1"]["influence"] == pytest.approx(float(more))
    assert nodes["4_5_1"]["influence"] is None


def test_options_are_used():
    data = neuronpedia_graph(
        known_graph(), slug="lily", scan="stories", labels={("b", 3): "names"}, source_set="set"
    )
    checked(data)
    assert (data["metadata"]["slug"], data["metadata"]["scan"]) == ("lily", "stories")
    assert data["metadata"]["feature_details"] == {"neuronpedia_source_set": "set"}
    assert by_id(data)["0_13_1"]["clerp"] == "names"


def test_our_files_come_back(tmp_path):
    graph = known_graph()
    path = graph.to_neuronpedia(tmp_path / "graph.json", **WHOLE)
    found = CircuitGraph.from_neuronpedia(path)
    assert found.dictionaries == graph.dictionaries
    assert found.hooks == HOOKS
    assert found.n_features == graph.n_features
    assert found.binary == graph.binary == [False, True, False]
    assert found.tokens == graph.tokens
    assert found.ids.equal(graph.ids)
    assert found.weights.equal(graph.weights)
    torch.testing.assert_close(found.probabilities, graph.probabilities, equal_nan=True)
    names = [found.name(node) for node in range(len(found.nodes))]
    kept = graph.pruned(1.0, 1.0)[0] & ~graph.nodes.of_kind(NodeKind.REMAINDER, NodeKind.BIAS)
    places = kept.nonzero()[:, 0]
    assert names == [graph.name(int(node)) for node in places]
    assert found.rows[:2].equal(graph.rows[:2, places])
    for node, row in zip(found.row_nodes.tolist(), found.rows[2:], strict=True):
        before = 2 + graph.row_nodes.tolist().index(int(places[node]))
        assert row.equal(graph.rows[before, places])
    again = found.to_neuronpedia(tmp_path / "again.json", **WHOLE)
    ids = [by_id(checked(json.loads(p.read_text()))).keys() for p in (path, again)]
    assert ids[0] == ids[1]


def test_groups_come_back(tmp_path):
    """The remainder, node 14, has no place in the format; pruning would remove node 0."""
    graph = known_graph().grouped({"first": ["b 3 @ 1", 14], "second": [2]}, pinned=[0, 9, 14])
    path = graph.to_neuronpedia(tmp_path / "graph.json", node_share=0.3)
    chosen = checked(json.loads(path.read_text()))["qParams"]
    assert chosen["supernodes"] == [["first", "0_13_1"], ["second", "2_0_1"]]
    assert chosen["pinnedIds"] == ["0_13_1", "2_0_1", "0_2_0", "E_7_0"]
    found = CircuitGraph.from_neuronpedia(path)
    names = {n: [found.name(i) for i in nodes] for n, nodes in found.supernodes.items()}
    assert names == {"first": ["b 3 @ 1"], "second": ["c 0 @ 1"]}
    assert [found.name(i) for i in found.pinned] == ["a 2 @ 0", "token 'One' @ 0"]
    found.save(tmp_path / "ours")
    again = CircuitGraph.load(tmp_path / "ours")
    assert (again.supernodes, again.pinned) == (found.supernodes, found.pinned)
    other = neuronpedia_graph(known_graph(), **WHOLE, supernodes={"third": [1]})["qParams"]
    assert (other["supernodes"], other["pinnedIds"]) == ([["third", "0_13_1"]], ["0_13_1"])


def test_groups_of_circuit_tracer_are_read(tmp_path):
    """Logits, and what a file does not list, are left out; groups of one name are one."""
    data = theirs()
    data["qParams"] |= {
        "pinnedIds": ["3_7_1", "27_9_1", "E_12_1", "9_9_1"],
        "supernodes": [["a", "1_40_1"], ["a", "3_7_1", "9_9_1"], ["b", "27_9_1"], []],
    }
    graph = read(checked(data), tmp_path)
    assert graph.supernodes == {"a": [0, 1]}
    assert graph.pinned == [3]


def test_graphs_of_models_satisfy_the_schema(model, mixes, prompt, tmp_path):
    target = Several([TopLogits(n=3), Logit(5), Logit(5)])
    for title, dictionaries in mixes.items():
        graph = attribute(model, prompt, dictionaries, target, progress=False,
                          allow_other_model=True)  # fmt: skip
        path = graph.to_neuronpedia(tmp_path / f"{title}.json", **WHOLE)
        data = checked(json.loads(path.read_text()))
        assert max(int(node["layer"]) for node in data["nodes"] if node["layer"] != "E") == 3
        for place in data["metadata"]["dictlearn"]["dictionaries"]:
            assert place["hook"] in dictionaries[place["name"]].sites.target.hooks
        found = CircuitGraph.from_neuronpedia(path)
        size = float(
            graph.rows[0, ~graph.nodes.of_kind(NodeKind.REMAINDER, NodeKind.BIAS)].abs().sum()
        )
        assert float(found.rows[0].abs().sum()) == pytest.approx(size, rel=1e-5)


# Files of circuit-tracer


def theirs():
    """A file as circuit-tracer lays it out; its errors have ids that start with 0."""

    def node(node_id, feature, layer, at, feature_type, **more):
        return {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": at, "clerp": "",
                "feature_type": feature_type, "jsNodeId": f"{node_id}-0", "token_prob": 0.0,
                "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "influence": 0.5,
                "activation": None} | more  # fmt: skip

    return {
        "metadata": {"slug": "s", "scan": "gemma", "transcoder_list": [],
                     "prompt_tokens": ["<bos>", "a"], "prompt": "<bos>a", "schema_version": 1},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "",
                    "sg_pos": ""},
        "nodes": [
            node("1_40_1", 901, "1", 1, "cross layer transcoder", activation=2.5),
            node("3_7_1", 62, "3", 1, "cross layer transcoder"),
            node("0_3_1", -1, "3", 1, "mlp reconstruction error"),
            node("E_12_1", 1, "E", 1, "embedding"),
            node("27_9_1", 9, "27", 1, "logit", token_prob=0.3, clerp='Output " b" (p=0.300)'),
            node("27_8_1", 8, "27", 1, "logit", token_prob=0.1),
        ],
        "links": [
            {"source": "1_40_1", "target": "3_7_1", "weight": 2.0},
            {"source": "E_12_1", "target": "1_40_1", "weight": 1.0},
            {"source": "0_3_1", "target": "27_9_1", "weight": -1.0},
            {"source": "3_7_1", "target": "27_9_1", "weight": 3.0},
            {"source": "3_7_1", "target": "27_8_1", "weight": 0.5},
        ],
    }  # fmt: skip


def read(data, tmp_path):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(data))
    return CircuitGraph.from_neuronpedia(path)


def test_a_file_of_circuit_tracer_is_read(tmp_path):
    graph = read(checked(theirs()), tmp_path)
    assert graph.dictionaries == ["layer 1", "layer 3"]
    names = [graph.name(node) for node in range(len(graph.nodes))]
    assert names == ["layer 1 40 @ 1", "layer 3 7 @ 1", "error of blocks.3.hook_mlp_out @ 1",
                     "token 'a' @ 1"]  # fmt: skip
    assert graph.ids.tolist() == [-1, 12]
    assert graph.nodes.values[0] == 2.5
    assert graph.nodes.values[1].isnan()
    assert graph.weights.tolist() == pytest.approx([0.75, 0.25])
    assert graph.probabilities.tolist() == pytest.approx([0.3, 0.1])
    assert graph.targets.features.tolist() == [9, 8]
    assert graph.row_nodes.tolist() == [0, 1]
    assert graph.rows.tolist() == [[0, 3, -1, 0], [0, 0.5, 0, 0], [0, 0, 0, 1], [2, 0, 0, 0]]
    replacement, _ = graph.scores()
    error = 0.75 / 4
    assert replacement == pytest.approx((1 - error) / (1 - error + error))
    graph.save(tmp_path / "ours")


DAMAGE = {
    "no nodes": (("nodes",), None),
    "text for a number": (("links", 0, "weight"), "2"),
    "an endless weight": (("links", 0, "weight"), float("inf")),
    "no such node": (("links", 0, "source"), "1_41_1"),
    "a link into an error": (("links", 0, "target"), "0_3_1"),
    "a position outside": (("nodes", 3, "ctx_idx"), 2),
    "a position unlike that of the id": (("nodes", 0, "ctx_idx"), 0),
    "an id of another form": (("nodes", 0, "node_id"), "1_40"),
    "an id twice": (("nodes", 1, "node_id"), "1_40_1"),
    "a layer without a number": (("nodes", 0, "layer"), "one"),
    "tokens that are none": (("metadata", "prompt_tokens"), "ab"),
    "fewer tokens": (("metadata", "prompt_tokens"), ["a"]),
    "groups that are none": (("qParams", "supernodes"), ["a"]),
    "dictionaries without the feature": (
        ("metadata", "dictlearn"), {"hooks": ["blocks.1.x"], "dictionaries": [
            {"name": "a", "layer": 1, "hook": "blocks.1.x", "offset": 0, "n_features": 40}]}),
}  # fmt: skip


@pytest.mark.parametrize(("path", "value"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(tmp_path, path, value):
    data = copy.deepcopy(theirs())
    *outer, last = path
    at = data
    for key in outer:
        at = at[key]
    at[last] = value
    with pytest.raises(CorruptFileError, match=r"theirs\.json"):
        read(data, tmp_path)


@pytest.mark.parametrize(("end", "node"), [("source", "1_41_1"), ("target", "0_3_1")])
def test_a_link_that_leads_nowhere_is_named(tmp_path, end, node):
    data = theirs()
    data["links"][0][end] = node
    with pytest.raises(CorruptFileError, match=f"a link from a node that is listed.*'{node}'"):
        read(data, tmp_path)


def test_a_file_without_targets_is_refused(tmp_path):
    data = theirs()
    data["nodes"], data["links"] = data["nodes"][:4], data["links"][:2]
    with pytest.raises(CorruptFileError, match="at least one node of a logit"):
        read(data, tmp_path)


def test_other_types_of_nodes_are_named(tmp_path):
    data = theirs()
    data["nodes"][0]["feature_type"] = "lorsa"
    with pytest.raises(InputError, match=r"theirs\.json: required nodes.*'lorsa' \(1_40_1\)"):
        read(data, tmp_path)


def test_a_hook_without_a_layer_is_refused(tmp_path):
    graph = known_graph()
    graph.hooks[1] = "hook_embed"
    with pytest.raises(InputError, match=r"'blocks\.LAYER\.NAME', got 'hook_embed'"):
        graph.to_neuronpedia(tmp_path / "graph.json")
