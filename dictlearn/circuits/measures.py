"""Measures of a graph: influence of nodes, replacement and completeness scores, pruning.

Definitions of Ameisen et al. 2025 ("Circuit Tracing", appendix), as circuit-tracer computes them:
edges into a node are divided by the sum of their sizes, and influence is the sum over all paths to
the targets of the products of these shares. The constants (`NodeKind.BIAS`) take no part, as there.
What a remainder contributes counts as error: no feature explains it.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.errors import InputError

if TYPE_CHECKING:
    from dictlearn.circuits.graph import CircuitGraph

_CIRCLE = "required a graph without circles: a feature contributes to itself"
_UNEXPLAINED = (NodeKind.ERROR, NodeKind.REMAINDER)
_EMBEDDED = (NodeKind.TOKEN, NodeKind.POSITION)


def influence(graph: "CircuitGraph") -> Float[Tensor, " node"]:
    """The influence of each node on the targets, which have their weights.

    Paths end at nodes whose incoming edges the graph does not have.

    Raises:
        InputError: the edges have a circle.
    """
    counted = ~graph.nodes.of_kind(NodeKind.BIAS)
    sums = graph.absolute_sums(counted)
    n_targets = len(graph.weights)
    of_rows = torch.zeros(len(graph.rows), dtype=torch.float64)
    of_rows[:n_targets] = graph.weights
    total = torch.zeros(len(graph.nodes), dtype=torch.float64)
    for _ in range(len(graph.rows) + 1):
        now = graph.absolute_products(of_rows / sums.clamp_min(1e-30)) * counted
        if not bool((now > 0).any()):
            return total
        total += now
        of_rows = torch.zeros_like(of_rows)
        of_rows[n_targets:] = now[graph.row_nodes]
    raise InputError(_CIRCLE)


def total_effects(graph: "CircuitGraph") -> Float[Tensor, "target node"]:
    """The contribution of each node to each target, directly and through other features.

    It is what removing the node takes off the target, as far as the model is linear and its
    features stay active. Nothing passes through features whose incoming edges the graph does not
    have, nor through those whose coefficients are 0 or 1: no change of a score changes them.
    """
    n_targets = len(graph.weights)
    smooth = ~torch.tensor(graph.binary, dtype=torch.bool)[graph.nodes.owners[graph.row_nodes]]
    sums = graph.row_sums()[n_targets:]
    through = torch.where(smooth & (sums != 0), 1 / sums, 0.0)
    now = graph.rows[:n_targets].double()
    total = now.clone()
    for _ in range(len(graph.rows)):
        of_rows = now[:, graph.row_nodes] * through
        if not bool((of_rows != 0).any()):
            return total
        now = graph.products(of_rows)
        total += now
    raise InputError(_CIRCLE)


def scores(graph: "CircuitGraph") -> tuple[float, float]:
    """The replacement score and the completeness score, from 0 to 1.

    Replacement: the influence of embeddings as a part of that of embeddings and errors.
    Completeness: the part of the edges into nodes that does not come from errors, averaged over
    targets and features by their influence.
    """
    of_nodes = influence(graph)
    unexplained = graph.nodes.of_kind(*_UNEXPLAINED)
    embedded = of_nodes[graph.nodes.of_kind(*_EMBEDDED)].sum()
    replacement = embedded / (embedded + of_nodes[unexplained].sum())
    sums = graph.absolute_sums(~graph.nodes.of_kind(NodeKind.BIAS)).clamp_min(1e-30)
    explained = 1 - graph.absolute_sums(unexplained) / sums
    weights = torch.cat([graph.weights, of_nodes[graph.row_nodes]])
    return float(replacement), float((explained * weights).sum() / weights.sum())


def pruned(
    graph: "CircuitGraph", node_share: float = 0.8, edge_share: float = 0.98
) -> tuple[Bool[Tensor, " node"], Bool[Tensor, "row node"]]:
    """The nodes and edges that are left of a graph.

    Nodes are kept from the most influential on, until they have `node_share` of all influence;
    embeddings always. Of the edges between them those are kept that have `edge_share` of the
    influence through edges. Then features and errors without an outgoing edge go, and features
    without an incoming one, until nothing changes.
    """
    for name, share in (("nodes", node_share), ("edges", edge_share)):
        if not 0 < share <= 1:
            raise InputError(f"required a share of {name} above 0 and up to 1, got {share}")
    of_nodes, always = influence(graph), graph.nodes.of_kind(*_EMBEDDED)
    keep = _largest(of_nodes, node_share) | always
    n_targets, features = len(graph.weights), graph.nodes.of_kind(NodeKind.FEATURE)
    rows = torch.cat([torch.arange(n_targets), n_targets + keep[graph.row_nodes].nonzero()[:, 0]])
    columns = (keep & ~graph.nodes.of_kind(NodeKind.BIAS)).nonzero()[:, 0]
    shares = graph.edges(rows, columns).abs().double()
    shares /= shares.sum(dim=1, keepdim=True).clamp_min(1e-30)
    shares *= torch.cat([graph.weights, of_nodes[graph.row_nodes]])[rows].unsqueeze(1)
    links = torch.zeros(graph.rows.shape, dtype=torch.bool)
    links[rows.unsqueeze(1), columns] = _largest(shares.flatten(), edge_share).view_as(shares)
    expanded = torch.zeros_like(keep)
    expanded[graph.row_nodes] = True
    while True:
        incoming = torch.zeros_like(keep)
        incoming[graph.row_nodes] = links[n_targets:].any(dim=1)
        left = keep & (links.any(dim=0) | always) & (incoming | ~(features & expanded))
        if bool((left == keep).all()):
            return keep, links
        keep = left
        links &= keep
        links[n_targets:] &= keep[graph.row_nodes].unsqueeze(1)


def _largest(values: Float[Tensor, " n"], share: float) -> Bool[Tensor, " n"]:
    """The largest values that have a share of the sum together, but no zeros."""
    positive = (values > 0).nonzero()[:, 0]
    order = values[positive].sort(descending=True)
    before = order.values.cumsum(0) - order.values
    keep = torch.zeros(len(values), dtype=torch.bool)
    keep[positive[order.indices]] = before < share * values.sum()
    return keep
