"""Graphs of paths by hand."""

import pytest

from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.graph import REST, paths_to_graph
from dictlearn.circuits.paths.path import Path, PathNode, Step
from tests.unit.circuits.paths.sums import incoming_gap

ROOT = PathNode(NodeKind.TARGET, "logit", position=3)
A = PathNode(NodeKind.FEATURE, "mlp8 355 @ 3", 8, 3, "mlp8", feature=355)
HEAD = PathNode(NodeKind.HEAD, "head 7.2 @ 1", 7, 1, head=2)
TOKEN = PathNode(NodeKind.TOKEN, "token 'a' @ 1", position=1)
ERROR = PathNode(NodeKind.ERROR, "error of blocks.8.hook_mlp_out @ 3", 8, 3)
BIAS = PathNode(NodeKind.BIAS, "bias")

root = Step(ROOT, 10.0, (Step(ERROR, 2.0), Step(BIAS, -1.0)))
a = Step(A, 6.0, (Step(BIAS, 0.5),))
PATHS = [
    Path((root,)),
    Path((root, a)),
    Path((root, Step(HEAD, 2.5))),
    Path((root, a, Step(HEAD, 4.0, (Step(BIAS, 1.0),)))),
    Path((root, a, Step(HEAD, 4.0, (Step(BIAS, 1.0),)), Step(TOKEN, 3.5))),
]


def test_distinct_beginnings_are_counted_once():
    graph = paths_to_graph(PATHS)
    assert graph.nodes == {
        ROOT: 10.0, A: 6.0, HEAD: 6.5, TOKEN: 3.5, ERROR: 2.0, BIAS: 0.5, REST: 0.5 + 1.5 + 2.0
    }  # fmt: skip
    assert graph.edges == {
        (A, ROOT): 6.0, (HEAD, ROOT): 2.5, (ERROR, ROOT): 2.0, (BIAS, ROOT): -1.0,
        (REST, ROOT): 0.5, (HEAD, A): 4.0, (BIAS, A): 0.5, (REST, A): 1.5,
        (TOKEN, HEAD): 3.5, (BIAS, HEAD): 1.0, (REST, HEAD): -0.5 + 2.5,
    }  # fmt: skip
    assert incoming_gap(graph) == 0.0
    assert paths_to_graph([*PATHS, *PATHS]) == graph
    assert paths_to_graph(PATHS[2:][::-1]) == graph, "beginnings need no path of their own"
    shorter = Path((Step(ROOT, 10.0), Step(A, 6.0)))  # of a search that went less far
    assert paths_to_graph([shorter, *PATHS]) == graph
    assert paths_to_graph([*PATHS, shorter]) == graph


def test_errors_on_paths_are_not_counted_again():
    explicit = [*PATHS, Path((root, Step(ERROR, 2.0))), Path((root, a, Step(BIAS, 0.5)))]
    assert paths_to_graph(explicit) == paths_to_graph(PATHS)


def test_tables():
    graph = paths_to_graph(PATHS)
    nodes, edges = graph.nodes_to_pandas(), graph.edges_to_pandas()
    assert nodes.iloc[1][["kind", "name", "layer", "position", "head"]].tolist() == [
        "head", "head 7.2 @ 1", 7, 1, 2,
    ]  # fmt: skip
    assert nodes["attribution"].abs().is_monotonic_decreasing
    assert edges.iloc[0].tolist() == ["mlp8 355 @ 3", "logit", 6.0]
    assert len(nodes) == 7
    assert len(edges) == 11
    assert edges.groupby("target")["attribution"].sum()["logit"] == pytest.approx(10.0)
    empty = paths_to_graph([])
    assert len(empty.nodes_to_pandas()) == len(empty.edges_to_pandas()) == 0
