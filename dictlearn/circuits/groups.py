"""Supernodes: groups of nodes under names; and pinned nodes, which pruning does not remove."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from dictlearn.core.errors import InputError, nearest
from dictlearn.core.files import entries_of, read_json, typed
from dictlearn.core.numbers import whole

if TYPE_CHECKING:
    from dictlearn.circuits.graph import CircuitGraph


def grouped(
    graph: "CircuitGraph",
    supernodes: Mapping[str, Sequence[int | str]] | None = None,
    pinned: Sequence[int | str] | None = None,
) -> "CircuitGraph":
    """The graph with these groups and pinned nodes; None leaves those that it has.

    Raises:
        InputError: a node is not in the graph, or is in two groups, or a group is empty.
    """
    if supernodes is None and pinned is None:
        return graph
    places = {graph.name(node): node for node in range(len(graph.nodes))}
    groups = graph.supernodes
    if supernodes is not None:
        groups = {name: _places(nodes, places) for name, nodes in supernodes.items()}
    owners = dict[int, str]()
    for name, nodes in groups.items():
        if not nodes:
            raise InputError(f"required at least one node in each supernode, got none in {name!r}")
        for node in nodes:
            if owners.setdefault(node, name) != name:
                raise InputError(
                    f"required each node in one supernode at most, got {graph.name(node)!r} in "
                    f"{owners[node]!r} and in {name!r}"
                )
    own = graph.pinned if pinned is None else _places(pinned, places)
    return replace(graph, supernodes=groups, pinned=[node for node in own if node not in owners])


@dataclass(frozen=True)
class _Groups:
    """The file that a page saves, which has nodes by name."""

    supernodes: dict[str, list[str]]
    pinned: list[str]


def grouped_from(graph: "CircuitGraph", path: str | Path) -> "CircuitGraph":
    """The graph with the groups and pinned nodes of a file that its page saved.

    Raises:
        CorruptFileError: the file is absent or damaged, or its groups do not fit the graph.
    """
    data = read_json(Path(path))
    with entries_of(Path(path), "required groups of nodes of this graph, as its page saves them"):
        found = typed(data, _Groups)
        return grouped(graph, found.supernodes, found.pinned)


def shown(
    graph: "CircuitGraph", node_share: float, edge_share: float
) -> tuple[Bool[Tensor, " node"], Bool[Tensor, "row node"]]:
    """The nodes and edges after pruning, with pinned and grouped nodes and all of their edges."""
    keep, links = graph.pruned(node_share, edge_share)
    back = torch.zeros_like(keep)
    back[marked(graph)] = True
    back &= ~keep
    if not bool(back.any()):
        return keep, links
    keep, of_targets = keep | back, torch.zeros(len(graph.weights), dtype=torch.bool)
    rows = torch.cat([~of_targets, keep[graph.row_nodes]]).nonzero()[:, 0]
    own = torch.cat([of_targets, back[graph.row_nodes]])
    edges = (graph.rows[rows] != 0) & keep & (own[rows].unsqueeze(1) | back)
    links = links.clone()
    links[rows] |= edges
    return keep, links


def marked(graph: "CircuitGraph") -> list[int]:
    """The nodes that are in a group or pinned."""
    return list(dict.fromkeys([*chain.from_iterable(graph.supernodes.values()), *graph.pinned]))


def _places(nodes: Sequence[int | str], places: Mapping[str, int]) -> list[int]:
    """Nodes by their numbers, each once."""
    found = dict[int, None]()
    for node in nodes:
        place = places.get(node, -1) if isinstance(node, str) else whole(node)
        if place is None or not 0 <= place < len(places):
            near = f": {nearest(node, list(places))}" if isinstance(node, str) else ""
            raise InputError(
                f"required names of nodes, or numbers below {len(places)}, got {node!r}{near}"
            )
        found[place] = None
    return list(found)
