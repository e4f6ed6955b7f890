"""Names of nodes that tell no text: no token, and places from the end of a prompt."""

from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.path import PathNode


def blind_name(node: PathNode, n_tokens: int) -> str:
    """The name of a node on a path of a prompt of `n_tokens`, whose last token is @ 0.

    Made anew from the node's numbers, so that no text of its own name can pass.

    >>> blind_name(PathNode(NodeKind.TOKEN, "token ' Lily' @ 3", position=3), 5)
    'token @ -1'
    """
    at = "" if node.position is None else f" @ {node.position - n_tokens + 1}"
    match node.kind:
        case NodeKind.TARGET:
            return f"feature{at}"
        case NodeKind.FEATURE:
            return f"{node.dictionary} {node.feature}{at}"
        case NodeKind.HEAD:
            return f"head {node.layer}.{node.head}{at}"
        case NodeKind.ERROR | NodeKind.REMAINDER if node.layer is not None:
            return f"{node.kind.name.lower()} in layer {node.layer}{at}"
        case _:
            return f"{node.kind.name.lower()}{at}"


def is_restricted(node: PathNode) -> bool:
    """Whether a node may be shown where features of the first layer may not."""
    return node.kind is not NodeKind.FEATURE or node.layer != 0
