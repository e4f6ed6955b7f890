"""Files of circuit graphs: `graph.json`, and `graph.safetensors` with all tensors, as they are."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.groups import marked
from dictlearn.circuits.nodes import NodeKind, Nodes
from dictlearn.core.files import JSON_FORMAT, entries_of, read_own_json, read_tensors, typed
from dictlearn.core.own_files import OwnFiles

GRAPH_FILE = "graph.json"
TENSORS_FILE = "graph.safetensors"
_WHOLE = (torch.int64, torch.int32)


def save_graph(graph: CircuitGraph, folder: str | Path | OwnFiles) -> Path:
    """Write a graph to `folder`; the path of its JSON file.

    Raises:
        InputError: there is such a file, and it is not one that was saved there.
        StorageError: the folder cannot be written.
    """
    own, tensors, entries = OwnFiles.of(folder, "circuit graph"), dict[str, Tensor](), {}
    own.require(GRAPH_FILE, TENSORS_FILE)
    for f in fields(graph):
        value = getattr(graph, f.name)
        if isinstance(value, Nodes):
            tensors |= {
                f"{f.name}/{each.name}": getattr(value, each.name) for each in fields(value)
            }
        elif isinstance(value, Tensor):
            tensors[f.name] = value
        else:
            entries[f.name] = value
    own.remove(GRAPH_FILE)  # or an interruption would pair an old description with new tensors
    own.write_tensors(TENSORS_FILE, tensors, {"format": str(JSON_FORMAT)})
    own.write_json(GRAPH_FILE, {"graph": entries, "tensors_sha256": own.sha256(TENSORS_FILE)})
    return own.path / GRAPH_FILE


def load_graph(folder: str | Path) -> CircuitGraph:
    """The graph that `save_graph` wrote to `folder`, bit for bit.

    Raises:
        CorruptFileError: a file is absent, damaged or of another format, or parts do not fit.
    """
    path = Path(folder) / GRAPH_FILE
    data = read_own_json(path, "circuit graph", "attribute again")
    with entries_of(path):
        tensors = read_tensors(path.parent / TENSORS_FILE, typed(data["tensors_sha256"], str))
        found: dict[str, Any] = {}
        for name, hint in get_type_hints(CircuitGraph).items():
            if hint is Nodes:
                found[name] = Nodes(**{f.name: tensors[f"{name}/{f.name}"] for f in fields(Nodes)})
            elif name in tensors:
                found[name] = tensors[name]
            else:
                found[name] = typed(data["graph"][name], hint)
        return require_consistent(CircuitGraph(**found))


def require_consistent(graph: CircuitGraph) -> CircuitGraph:
    """The graph, after a check that its parts fit each other.

    Raises:
        ValueError: they do not; the message names the part.
    """
    n, n_targets, nodes = len(graph.nodes), len(graph.weights), graph.nodes
    shapes = {
        "ids": (graph.ids, (len(graph.tokens),)),
        "weights": (graph.weights, (len(graph.labels),)),
        "probabilities": (graph.probabilities, (n_targets,)),
        "row_nodes": (graph.row_nodes, (len(graph.row_nodes),)),
        "rows": (graph.rows, (n_targets + len(graph.row_nodes), n)),
        **{f"nodes/{f.name}": (getattr(nodes, f.name), (n,)) for f in fields(nodes)},
        **{f"targets/{f.name}": (getattr(graph.targets, f.name), (n_targets,))
           for f in fields(nodes)},
    }  # fmt: skip
    reals = {"weights", "probabilities", "rows", "nodes/values", "targets/values"}
    for name, (tensor, shape) in shapes.items():
        fits = tensor.is_floating_point() if name in reals else tensor.dtype in _WHOLE
        if tensor.shape != shape or not fits:
            raise ValueError(f"{name} of shape {shape}, got {tuple(tensor.shape)}, {tensor.dtype}")
    if not len(graph.n_features) == len(graph.binary) == len(graph.dictionaries):
        raise ValueError("a number of features for each dictionary, and whether they are 0 or 1")
    features = nodes.of_kind(NodeKind.FEATURE)
    errors, rest = nodes.of_kind(NodeKind.ERROR), nodes.of_kind(NodeKind.BIAS)
    owned = torch.tensor([*graph.n_features, 0])[nodes.owners.clamp(-1, len(graph.n_features))]
    for name, values, end in (
        ("kinds", nodes.kinds, len(NodeKind)),
        ("owners of features", nodes.owners[features], len(graph.dictionaries)),
        ("features", nodes.features[features], owned[features]),
        ("hooks of features", nodes.hooks[features], len(graph.hooks)),
        ("owners of errors", nodes.owners[errors], len(graph.hooks)),
        ("positions", nodes.positions[~rest], len(graph.tokens)),
        ("positions of targets", graph.targets.positions, len(graph.tokens)),
        ("row_nodes", graph.row_nodes, n),
        ("supernodes and pinned", torch.tensor(marked(graph), dtype=torch.long), n),
    ):
        if bool(((values < 0) | (values >= end)).any()):
            raise ValueError(f"{name} within the graph")
    if not bool(features[graph.row_nodes].all()) or len(set(graph.row_nodes.tolist())) < len(
        graph.row_nodes
    ):
        raise ValueError("row_nodes that are different features")
    return graph
