"""Sums that must agree, of paths and their graphs."""

from collections import defaultdict

from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.graph import REST
from dictlearn.circuits.paths.search import greedy_paths

INNER = (NodeKind.TARGET, NodeKind.FEATURE, NodeKind.HEAD)
ALL = 10**9
_PASSED = (NodeKind.TARGET, NodeKind.HEAD)


def every_path(model, ids, dictionaries, target, hops=99):
    """All paths, by greedy search without a limit."""
    return greedy_paths(model, ids, dictionaries, target, iterations=hops, width=ALL)


def incoming_gap(graph):
    """The largest difference between a node and the sum of the edges into it."""
    incoming = defaultdict(float)
    for (_, node), value in graph.edges.items():
        incoming[node] += value
    return max(
        abs(value - incoming[node]) for node, value in graph.nodes.items() if node.kind in INNER
    )


def pruned(graph):
    """The largest contribution to a node through which no path goes."""
    return max(abs(value) for (source, _), value in graph.edges.items() if source == REST)


def through_heads(paths):
    """The sums of attributions over paths through heads alone, by last node."""
    found = defaultdict(float)
    for path in paths:
        *inner, last = path.nodes
        if all(node.kind == NodeKind.HEAD for node in inner[1:]) and last.kind not in _PASSED:
            found[last] += path.attribution
    return found
