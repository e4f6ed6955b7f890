"""Paths in words, and predicates of nodes and paths."""

from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.described import path_nodes
from dictlearn.circuits.paths.path import (
    NodeFilter,
    Path,
    infix,
    not_infix,
    paths_to_pandas,
    suffix,
)
from tests.unit.circuits.paths.test_graph import ERROR, HEAD, PATHS, TOKEN, A, Step, root

LONGEST = PATHS[-1]


def test_filters_of_nodes():
    nodes = [*LONGEST.nodes, ERROR]
    for fits, wanted in (
        (NodeFilter(), nodes),
        (NodeFilter(kinds={NodeKind.HEAD, NodeKind.TOKEN}), [HEAD, TOKEN]),
        (NodeFilter(layers=range(7, 9)), [A, HEAD, ERROR]),
        (NodeFilter(positions=[1]), [HEAD, TOKEN]),
        (NodeFilter(dictionaries=["mlp8"]), [A]),
        (NodeFilter(features=range(350, 400), layers={8}), [A]),
        (NodeFilter(heads={2}), [HEAD]),
        (NodeFilter(heads={2}, features={355}), []),
    ):
        assert [node for node in nodes if fits(node)] == wanted


def test_predicates_of_paths():
    at = {"a": NodeFilter(features={355}), "head": NodeFilter(heads={2}),
          "token": NodeFilter(kinds={NodeKind.TOKEN}), "any": NodeFilter()}  # fmt: skip
    for names, where in (
        ("a head", (3, 4)), ("head", (2, 3, 4)), ("a token", ()), ("any any any any", (4,)),
        ("any any any any any", ()), ("head token", (4,)), ("", range(5)),
    ):  # fmt: skip
        nodes = [at[name] for name in names.split()]
        assert [i for i, path in enumerate(PATHS) if infix(*nodes)(path)] == list(where)
        others = [i for i, path in enumerate(PATHS) if not_infix(*nodes)(path)]
        assert others == sorted({*range(5)} - {*where})
    assert [i for i, path in enumerate(PATHS) if suffix(at["head"])(path)] == [2, 3]
    assert [i for i, path in enumerate(PATHS) if suffix(at["a"], at["head"])(path)] == [3]
    assert [i for i, path in enumerate(PATHS) if suffix()(path)] == [0, 1, 2, 3, 4]


def test_words_and_table():
    assert str(LONGEST) == "logit <- mlp8 355 @ 3 <- head 7.2 @ 1 <- token 'a' @ 1"
    assert LONGEST.attribution == 3.5
    table = paths_to_pandas(PATHS)
    assert table["path"].tolist() == [str(path) for path in PATHS]
    assert table["hops"].tolist() == [0, 1, 1, 2, 3]
    assert table["attribution"].tolist() == [10.0, 6.0, 2.5, 4.0, 3.5]
    assert table.iloc[1][["kind", "layer", "feature"]].tolist() == ["feature", 8, 355]
    assert len(paths_to_pandas([])) == 0
    assert Path((root, Step(ERROR, 2.0))).nodes[-1] is ERROR


def test_nodes_of_a_model(small, trained, prompt):
    """A feature of a cross-layer transcoder is in the first layer that it writes to."""
    dictionary = trained["cross_layer_transcoder"]
    with local_model(small, prompt, {"clt": dictionary}, cut_heads=True) as local:
        nodes = path_nodes(local)
        assert len(nodes) == len(local.nodes)
    per_layer = dictionary.n_features // 2
    features = [node for node in nodes if node.kind == NodeKind.FEATURE]
    assert [node.layer for node in features] == [node.feature // per_layer for node in features]
    assert {node.layer for node in features} == {0, 1}
    assert features[0].name == f"clt {features[0].feature} @ {features[0].position}"
    kinds = {kind: [node for node in nodes if node.kind == kind] for kind in NodeKind}
    assert [node.layer for node in kinds[NodeKind.ERROR]] == [0] * 9 + [1] * 9
    assert [node.layer for node in kinds[NodeKind.REMAINDER]] == [0] * 9 + [1] * 9
    heads = [(node.layer, node.head, node.position) for node in kinds[NodeKind.HEAD]]
    assert heads == [(i, h, at) for i in range(2) for h in range(2) for at in range(9)]
    assert kinds[NodeKind.HEAD][10].name == "head 0.1 @ 1"
    assert kinds[NodeKind.TOKEN][2].name == f"token '<{int(prompt[2])}>' @ 2"
    (bias,) = kinds[NodeKind.BIAS]
    assert (bias.name, bias.layer, bias.position, bias.feature) == ("bias", None, None, None)
