"""A small graph whose numbers are all known: two dictionaries in layer 0, one in layer 2."""

import torch

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind, Nodes

HOOKS = ["blocks.0.hook_mlp_out", "blocks.0.hook_resid_post", "blocks.2.hook_mlp_out"]
NAN = float("nan")


def known_graph(prefix="", dtype=torch.float32) -> CircuitGraph:
    """The graph; `prefix` stands before all its texts."""
    nodes = Nodes.joined([
        feature(owner=0, hook=0, at=0, index=2, value=0.5),  # 0
        feature(owner=1, hook=1, at=1, index=3, value=1.5),  # 1
        feature(owner=2, hook=2, at=1, index=0, value=2.0),  # 2
        *(Nodes.of(NodeKind.ERROR, [0, 1], owner=hook) for hook in range(3)),  # 3 to 8
        Nodes.of(NodeKind.TOKEN, [0, 1], features=torch.tensor([7, 9])),  # 9, 10
        Nodes.of(NodeKind.POSITION, [0, 1]),  # 11, 12
        Nodes.of(NodeKind.REMAINDER, [0, 1], owner=1),  # 13, 14
        Nodes.of(NodeKind.BIAS, [-1]),  # 15
    ])  # fmt: skip
    rows = torch.zeros(5, 16, dtype=dtype)
    rows[0, [2, 5, 10, 14, 15]] = torch.tensor([4.0, -1.0, 1.0, 2.0, 0.25], dtype=dtype)
    rows[1, [1, 2]] = torch.tensor([-3.0, 1.0], dtype=dtype)
    rows[2, [0, 1, 7, 12]] = torch.tensor([1.0, 2.0, 0.5, -1.5], dtype=dtype)  # of node 2
    rows[3, [0, 10, 15]] = torch.tensor([-0.5, 1.5, 0.5], dtype=dtype)  # of node 1
    rows[4, [9, 11]] = torch.tensor([0.25, 0.25], dtype=dtype)  # of node 0
    return CircuitGraph(
        ids=torch.tensor([7, 9]),
        tokens=[prefix + text for text in ("One", " day")],
        dictionaries=[prefix + name for name in ("a", "b", "c")],
        binary=[False, True, False],
        hooks=list(HOOKS),
        nodes=nodes,
        targets=Nodes.of(NodeKind.TARGET, [1, 1], features=torch.tensor([5, -1]),
                         values=torch.tensor([6.25, -2.0])),
        labels=[prefix + label for label in (" She", " She - He")],
        weights=torch.tensor([0.75, 0.25], dtype=torch.float64),
        row_nodes=torch.tensor([2, 1, 0]),
        rows=rows,
        about={},
        n_features=[10, 20, 30],
        probabilities=torch.tensor([0.6, NAN], dtype=torch.float64),
    )  # fmt: skip


def feature(owner: int, hook: int, at: int, index: int, value: float) -> Nodes:
    return Nodes.of(NodeKind.FEATURE, [at], owner=owner, features=torch.tensor([index]),
                    values=torch.tensor([value]), hooks=torch.tensor([hook]))  # fmt: skip


def tensors_of(graph: CircuitGraph) -> dict[str, torch.Tensor]:
    """All tensors of a graph by name."""
    parts = {"": graph, "nodes/": graph.nodes, "targets/": graph.targets}
    return {prefix + name: value for prefix, part in parts.items()
            for name, value in vars(part).items() if isinstance(value, torch.Tensor)}  # fmt: skip
