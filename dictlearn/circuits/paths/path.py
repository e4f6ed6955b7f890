"""Paths, which nodes lie on them, and predicates of both."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from dictlearn.circuits.nodes import NodeKind

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PathNode:
    """A node on a path; None where an entry does not apply."""

    kind: NodeKind
    name: str
    layer: int | None = None
    """The block of a head, an error or an MLP's remainder; the first that a feature writes to."""
    position: int | None = None
    """Its place in the prompt; of a head that of the token which it reads."""
    dictionary: str | None = None
    feature: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Step:
    """A node at the end of a path, and what flows to the target through the path."""

    node: PathNode
    attribution: float
    ends: tuple["Step", ...] = ()
    """Errors, remainders of MLPs and constants among the children, if they have been computed."""


@dataclass(frozen=True)
class Path:
    """Steps from a target back; each step's node contributes to that of the step before."""

    steps: tuple[Step, ...]

    @property
    def attribution(self) -> float:
        """The contribution to the target that flows through all nodes of the path."""
        return self.steps[-1].attribution

    @property
    def nodes(self) -> tuple[PathNode, ...]:
        """The nodes of all steps."""
        return tuple(step.node for step in self.steps)

    def __str__(self) -> str:
        return " <- ".join(node.name for node in self.nodes)


NodePredicate: TypeAlias = Callable[[PathNode], bool]
PathPredicate: TypeAlias = Callable[[Path], bool]


@dataclass(frozen=True)
class NodeFilter:
    """The predicate that holds for nodes with all that is given, in ranges, sets or lists."""

    kinds: Container[NodeKind] | None = None
    layers: Container[int] | None = None
    positions: Container[int] | None = None
    dictionaries: Container[str] | None = None
    features: Container[int] | None = None
    heads: Container[int] | None = None

    def __call__(self, node: PathNode) -> bool:
        """Whether a node is one of those."""
        pairs = (
            (self.kinds, node.kind), (self.layers, node.layer), (self.positions, node.position),
            (self.dictionaries, node.dictionary), (self.features, node.feature),
            (self.heads, node.head),
        )  # fmt: skip
        return all(wanted is None or found in wanted for wanted, found in pairs)


def infix(*nodes: NodePredicate) -> PathPredicate:
    """The predicate that holds for paths with successive nodes of this description."""
    n = len(nodes)
    return lambda path: any(
        _fits(path.nodes[first : first + n], nodes) for first in range(len(path.steps) - n + 1)
    )


def not_infix(*nodes: NodePredicate) -> PathPredicate:
    """The predicate that holds for paths without successive nodes of this description."""
    within = infix(*nodes)
    return lambda path: not within(path)


def suffix(*nodes: NodePredicate) -> PathPredicate:
    """The predicate that holds for paths whose last nodes fit this description."""
    return lambda path: (
        len(nodes) <= len(path.steps) and _fits(path.nodes[len(path.steps) - len(nodes) :], nodes)
    )


def _fits(nodes: tuple[PathNode, ...], wanted: tuple[NodePredicate, ...]) -> bool:
    return all(fits(node) for fits, node in zip(wanted, nodes, strict=True))


def paths_to_pandas(paths: Sequence[Path]) -> "pd.DataFrame":
    """A table with one row for each path: its nodes in words, its last node, its attribution."""
    return nodes_to_pandas(path.steps[-1].node for path in paths).assign(
        path=[str(path) for path in paths],
        hops=[len(path.steps) - 1 for path in paths],
        attribution=[path.attribution for path in paths],
    )


def nodes_to_pandas(nodes: Iterable[PathNode]) -> "pd.DataFrame":
    """A table with one row for each node; kinds by name."""
    import pandas as pd

    rows = [{**vars(node), "kind": node.kind.name.lower()} for node in nodes]
    table = pd.DataFrame(rows, columns=[field.name for field in fields(PathNode)])
    return table.astype(dict.fromkeys(("layer", "position", "feature", "head"), "Int64"))
