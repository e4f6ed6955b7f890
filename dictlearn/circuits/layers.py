"""Layers of a graph, which the names of hooks tell."""

import re
from typing import TYPE_CHECKING

from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.errors import InputError

if TYPE_CHECKING:
    from dictlearn.circuits.graph import CircuitGraph

_LAYER = re.compile(r"blocks\.(\d+)\.")


def layer_of(hook: str) -> int:
    """The layer that the name of a hook starts with.

    >>> layer_of("blocks.3.mlp.hook_out")
    3

    Raises:
        InputError: it names none.
    """
    found = _LAYER.match(hook)
    if found is None:
        raise InputError(
            f"required a dictionary that writes at a hook 'blocks.LAYER.NAME', got {hook!r}: such "
            "graphs can be saved, but not be drawn or exported by layer"
        )
    return int(found[1])


def node_layers(graph: "CircuitGraph") -> list[int]:
    """The layer of each node: where a feature first writes, and where an error or a remainder is.

    Embeddings and constants have -1.

    Raises:
        InputError: a hook names no layer.
    """
    hooks = [layer_of(hook) for hook in graph.hooks]
    nodes, found = graph.nodes, []
    columns = (nodes.kinds.tolist(), nodes.owners.tolist(), nodes.hooks.tolist())
    for kind, owner, hook in zip(*columns, strict=True):
        at = {NodeKind.FEATURE: hook, NodeKind.ERROR: owner}.get(kind, -1)
        found.append(hooks[at] if at >= 0 else owner if kind == NodeKind.REMAINDER else -1)
    return found


def n_layers(layers: list[int]) -> int:
    """The number of layers up to the last that has a node.

    It is that of the model if its last MLP is replaced or has a remainder.
    """
    return 1 + max(layers, default=-1)
