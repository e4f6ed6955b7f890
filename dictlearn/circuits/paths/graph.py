"""Algorithm 2 of Dunefsky et al. 2024: the graph of several paths."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.path import Path, PathNode, Step, nodes_to_pandas

if TYPE_CHECKING:
    import pandas as pd

_INNER = (NodeKind.TARGET, NodeKind.FEATURE, NodeKind.HEAD)
REST = PathNode(NodeKind.PRUNED, "pruned")
"""The node of all contributions through which no path of a graph goes."""


@dataclass(frozen=True)
class PathGraph:
    """Nodes and edges of several paths, each counted once for every distinct beginning of a path.

    The attribution of a target, a feature or a head is the sum of the edges into it.
    """

    nodes: dict[PathNode, float]
    """The sum of attributions over the beginnings that end at the node."""
    edges: dict[tuple[PathNode, PathNode], float]
    """By source and target, the sum over the beginnings that end with the edge."""

    def nodes_to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each node, the largest attribution first."""
        return _sorted(nodes_to_pandas(self.nodes).assign(attribution=list(self.nodes.values())))

    def edges_to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each edge, the largest first."""
        import pandas as pd

        rows = [(a.name, b.name, value) for (a, b), value in self.edges.items()]
        return _sorted(pd.DataFrame(rows, columns=["source", "target", "attribution"]))


def paths_to_graph(paths: Iterable[Path]) -> PathGraph:
    """The graph of paths, with the errors and constants of every node on the way.

    What is left of a node's attribution is that of the node `REST`. (The published code subtracts
    neither errors nor constants there, so that its edges count them twice.)
    """
    beginnings: dict[tuple[PathNode, ...], Step] = {}
    for path in paths:
        nodes = path.nodes
        for n, step in enumerate(path.steps, start=1):
            if step.ends or nodes[:n] not in beginnings:
                beginnings[nodes[:n]] = step
    for nodes, step in list(beginnings.items()):
        for end in step.ends:
            beginnings.setdefault((*nodes, end.node), end)
    rest: dict[tuple[PathNode, ...], float] = defaultdict(float)
    for nodes, step in beginnings.items():
        if step.node.kind in _INNER:
            rest[nodes] += step.attribution
        if len(nodes) > 1:
            rest[nodes[:-1]] -= step.attribution
    attributions = {nodes: step.attribution for nodes, step in beginnings.items()}
    attributions |= {(*nodes, REST): left for nodes, left in rest.items()}
    of_nodes: dict[PathNode, float] = defaultdict(float)
    of_edges: dict[tuple[PathNode, PathNode], float] = defaultdict(float)
    for nodes, attribution in attributions.items():
        of_nodes[nodes[-1]] += attribution
        if len(nodes) > 1:
            of_edges[nodes[-1], nodes[-2]] += attribution
    return PathGraph(dict(of_nodes), dict(of_edges))


def _sorted(table: "pd.DataFrame") -> "pd.DataFrame":
    return table.sort_values("attribution", key=abs, ascending=False, ignore_index=True)
