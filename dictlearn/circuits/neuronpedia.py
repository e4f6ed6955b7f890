"""Attribution graphs in the JSON of Neuronpedia and circuit-tracer (schema 1.0.0), written.

A feature there has a layer and an index in that layer. Where several dictionaries write in one
layer, the indices of each begin after those of the one before. The format has no place for
constants and for remainders of MLPs, which are left out; `metadata.dictlearn` says so, and which
dictionary has which indices.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.groups import marked, shown
from dictlearn.circuits.layers import layer_of, n_layers, node_layers
from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.own_files import OwnFiles

FEATURE, ERROR = "cross layer transcoder", "mlp reconstruction error"
EMBEDDING, LOGIT = "embedding", "logit"
LEFT_OUT = (NodeKind.REMAINDER, NodeKind.BIAS)
"""Kinds of nodes without a place in the format."""
_NOTHING_CHOSEN: Mapping[str, Any] = {
    "pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": "",
}  # fmt: skip
"""The state of a page there that opens."""


@dataclass(frozen=True)
class Place:
    """The indices of a dictionary's features in one layer."""

    name: str
    layer: int
    hook: str
    """The hook of this layer where the features first write."""
    offset: int
    """The index of the first feature."""
    n_features: int
    binary: bool = False
    """Whether coefficients are 0 or 1; other programs do not say."""


def write_neuronpedia(graph: CircuitGraph, path: str | Path, **options: Any) -> Path:
    """Write `neuronpedia_graph(graph, **options)` to a file; its path.

    Raises:
        InputError: there is a file at `path` that was not written so; or as `neuronpedia_graph`.
        StorageError: the file cannot be written.
    """
    own, name = OwnFiles.of(Path(path).parent, "circuit graph"), Path(path).name
    own.require(name)
    own.write_text(name, json.dumps(neuronpedia_graph(graph, **options), allow_nan=False))
    return Path(path)


def neuronpedia_graph(
    graph: CircuitGraph,
    *,
    slug: str = "circuit",
    scan: str = "unknown",
    node_share: float = 0.8,
    edge_share: float = 0.98,
    labels: Mapping[tuple[str, int], str] | None = None,
    source_set: str = "",
    supernodes: Mapping[str, Sequence[int | str]] | None = None,
    pinned: Sequence[int | str] | None = None,
) -> dict[str, Any]:
    """The pruned graph as data of the format.

    A node's `influence` is cumulative, as in circuit-tracer: the part of all influence that the
    nodes have that are at least as influential.

    Args:
        graph: the graph.
        slug: the name of the graph in addresses.
        scan: the name of the model there.
        node_share, edge_share: as of `CircuitGraph.pruned`.
        labels: descriptions of features, by dictionary and feature.
        source_set: the name there of pages on the features.
        supernodes, pinned: as of `CircuitGraph.grouped`; None for those of the graph.

    Raises:
        InputError: a hook names no layer, or a share is out of range.
    """
    graph = graph.grouped(supernodes, pinned)
    keep, links = shown(graph, node_share, edge_share)
    layers = node_layers(graph)
    of_nodes = _Written(graph, layers, labels or {})
    kept = (keep & ~graph.nodes.of_kind(*LEFT_OUT)).nonzero()[:, 0]
    nodes = {node: of_nodes.node(node) for node in kept.tolist()}
    targets = of_nodes.targets(n_layers(layers) + 1)
    ends = [*targets, *(nodes.get(node, {}) for node in graph.row_nodes.tolist())]
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "prompt_tokens": list(graph.tokens),
            "prompt": "".join(graph.tokens),
            "node_threshold": node_share,
            "pruning_settings": {"node_threshold": node_share, "edge_threshold": edge_share},
            **({"feature_details": {"neuronpedia_source_set": source_set}} if source_set else {}),
            **_origin(graph, keep, list(of_nodes.places.values())),
        },
        "qParams": {**_NOTHING_CHOSEN, **_chosen(graph, nodes)},
        "nodes": [*nodes.values(), *targets],
        "links": [
            {
                "source": nodes[source]["node_id"],
                "target": ends[row]["node_id"],
                "weight": float(graph.rows[row, source]),
            }
            for row, source in links.nonzero().tolist()
            if source in nodes
        ],
    }


def _chosen(graph: CircuitGraph, nodes: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The pinned nodes and the groups of those nodes that have a place in the format."""
    groups = {
        name: [nodes[node]["node_id"] for node in members if node in nodes]
        for name, members in graph.supernodes.items()
    }
    return {
        "pinnedIds": [nodes[node]["node_id"] for node in marked(graph) if node in nodes],
        "supernodes": [[name, *ids] for name, ids in groups.items() if ids],
    }


def _origin(
    graph: CircuitGraph, keep: Bool[Tensor, " node"], places: Sequence[Place]
) -> dict[str, Any]:
    """Metadata on the program that wrote the file, and on what it cannot say in the format."""
    return {
        "schema_version": 1,
        "info": {
            "generator": {"name": "dictlearn", "version": version("dictlearn")},
            "description": "Without constants (biases), and without what MLPs that no dictionary "
            "replaces write beyond their tangent.",
        },
        "dictlearn": {
            "hooks": list(graph.hooks),
            "dictionaries": [asdict(place) for place in places],
            "left_out": {
                kind.name.lower(): int((keep & graph.nodes.of_kind(kind)).sum())
                for kind in LEFT_OUT
            },
        },
    }


class _Written:
    """Nodes of a graph as entries of the file."""

    def __init__(
        self, graph: CircuitGraph, layers: list[int], labels: Mapping[tuple[str, int], str]
    ) -> None:
        self._graph, self._layers, self._labels = graph, layers, labels
        self._influence = _cumulative(graph.influence())
        self.places = _places(graph)
        self._errors = _ranks(graph.hooks)

    def node(self, node: int) -> dict[str, Any]:
        """The entry of a feature, an error, or an embedding."""
        nodes, layer = self._graph.nodes, self._layers[node]
        kind, at = NodeKind(int(nodes.kinds[node])), int(nodes.positions[node])
        feature, owner = int(nodes.features[node]), int(nodes.owners[node])
        if kind == NodeKind.FEATURE:
            place = self.places[owner, int(nodes.hooks[node])]
            index, pair = place.offset + feature, layer + place.offset + feature
            entry = _entry(f"{layer}_{index}", at, str(layer), FEATURE,
                           pair * (pair + 1) // 2 + index)  # fmt: skip
            entry["activation"] = _finite(float(nodes.values[node]))
            entry["clerp"] = self._labels.get((place.name, feature), self._graph.name(node))
        elif kind == NodeKind.ERROR:
            entry = _entry(f"{layer}_{-1 - self._errors[owner]}", at, str(layer), ERROR, -1)
            entry["clerp"] = self._graph.name(node)
        else:  # a position is an embedding without a token
            entry = _entry(f"E_{feature}", at, "E", EMBEDDING, at)
            entry["clerp"] = self._graph.name(node)
        return entry | {"influence": float(self._influence[node])}

    def targets(self, layer: int) -> list[dict[str, Any]]:
        """The entries of the targets, each with its weight among them as its influence.

        Those that are not the logit of a token have negative indices, and no probability.
        """
        graph, found, seen = self._graph, [], set[tuple[int, int]]()
        for i, label in enumerate(graph.labels):
            token, at = int(graph.targets.features[i]), int(graph.targets.positions[i])
            index = token if token >= 0 and (token, at) not in seen else -1 - i
            seen.add((token, at))
            p = float(graph.probabilities[i])
            entry = _entry(f"{layer}_{index}", at, str(layer), LOGIT, index)
            entry |= {"jsNodeId": f"L_{index}-{at}", "clerp": label,
                      "is_target_logit": bool(graph.weights[i] == graph.weights.max()),
                      "influence": None, "weight": float(graph.weights[i])}  # fmt: skip
            if isfinite(p):
                entry |= {"token_prob": p, "clerp": f'Output "{label}" (p={p:.3f})'}
            found.append(entry)
        return found


def _entry(prefix: str, at: int, layer: str, feature_type: str, feature: int) -> dict[str, Any]:
    """The entries that all nodes have."""
    return {
        "node_id": f"{prefix}_{at}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": at,
        "feature_type": feature_type,
        "jsNodeId": f"{prefix}-{at}" if layer == "E" else f"{prefix}-0",
        "activation": None,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
    }


def _places(graph: CircuitGraph) -> dict[tuple[int, int], Place]:
    """The place of the features of each dictionary that write at each hook, if there are any."""
    features = graph.nodes.of_kind(NodeKind.FEATURE)
    pairs = torch.stack([graph.nodes.owners, graph.nodes.hooks], dim=1)[features]
    ends, found = dict[int, int](), {}
    for owner, hook in pairs.unique(dim=0).tolist():
        layer, n = layer_of(graph.hooks[hook]), graph.n_features[owner]
        first = ends.get(layer, 0)
        ends[layer] = first + n
        found[owner, hook] = Place(
            graph.dictionaries[owner], layer, graph.hooks[hook], first, n, graph.binary[owner]
        )
    return found


def _ranks(hooks: Sequence[str]) -> list[int]:
    """The place of each hook among those of its layer."""
    layers = [layer_of(hook) for hook in hooks]
    return [layers[:i].count(layer) for i, layer in enumerate(layers)]


def _cumulative(influence: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    order = influence.argsort(descending=True)
    found = torch.zeros_like(influence)
    found[order] = influence[order].cumsum(dim=0) / influence.sum().clamp_min(1e-30)
    return found


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
