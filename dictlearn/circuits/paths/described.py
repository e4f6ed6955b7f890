"""The nodes of a local replacement model, as they stand on paths."""

import re
from collections.abc import Sequence
from dataclasses import replace

from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.path import PathNode

_BLOCK = re.compile(r"^blocks\.(\d+)\.")


def path_nodes(local: LocalModel) -> list[PathNode]:
    """The nodes of a local model, in its order."""
    nodes, told = local.nodes, local.describe()
    dictionaries, hooks = told["dictionaries"], told["hooks"]
    of_hooks = _layers(hooks)
    columns = (nodes.kinds, nodes.owners, nodes.positions, nodes.features, nodes.hooks)
    entries = (column.tolist() for column in columns)
    found = []
    for i, (kind, owner, position, number, hook) in enumerate(zip(*entries, strict=True)):
        name = nodes.name(i, told["tokens"], dictionaries, hooks)
        node = PathNode(NodeKind(kind), name, position=position if position >= 0 else None)
        match node.kind:
            case NodeKind.FEATURE:
                node = replace(
                    node, layer=of_hooks[hook], dictionary=dictionaries[owner], feature=number
                )
            case NodeKind.HEAD:
                node = replace(node, layer=owner, head=number)
            case NodeKind.ERROR:
                node = replace(node, layer=of_hooks[owner])
            case NodeKind.REMAINDER:
                node = replace(node, layer=owner)
        found.append(node)
    return found


def _layers(hooks: Sequence[str]) -> list[int | None]:
    """The block of each hook, None outside blocks."""
    found = (_BLOCK.match(hook) for hook in hooks)
    return [int(match[1]) if match else None for match in found]
