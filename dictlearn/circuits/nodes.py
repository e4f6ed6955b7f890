"""The nodes of a circuit graph."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


class NodeKind(IntEnum):
    """The kinds of nodes. Targets, features and heads have incoming edges."""

    TARGET = 0
    """A logit, a difference of logits, or a feature to explain."""
    FEATURE = 1
    """A feature of a dictionary at a token."""
    ERROR = 2
    """What a dictionary misses of its target at a token."""
    TOKEN = 3
    """The embedding of a token."""
    POSITION = 4
    """The embedding of a position."""
    REMAINDER = 5
    """What an MLP that no dictionary replaces writes at a token beyond the tangent at its input."""
    BIAS = 6
    """All constants together: biases of model and dictionaries, offsets of encoders."""
    HEAD = 7
    """An attention head with a token that it reads; it writes at that of the step before."""
    PRUNED = 8
    """The contributions through which no path goes, in graphs of paths; those of edges that pruning
    removed, where graphs are aggregated."""


@dataclass(frozen=True)
class Nodes:
    """Several nodes, as tensors of equal length; -1 where an entry does not apply."""

    kinds: Int[Tensor, " node"]
    """Values of `NodeKind`."""
    owners: Int[Tensor, " node"]
    """The dictionary of a feature, by its place in `CircuitGraph.dictionaries`; the hook of an
    error, by its place in `CircuitGraph.hooks`; the layer of a remainder or head."""
    positions: Int[Tensor, " node"]
    features: Int[Tensor, " node"]
    """The feature; of a token node its id; of a head its number."""
    values: Float[Tensor, " node"]
    """The coefficient of a feature, the value of a target, and 1 for others."""
    hooks: Int[Tensor, " node"]
    """The first hook where a feature writes, by its place in `CircuitGraph.hooks`."""

    def __len__(self) -> int:
        return len(self.kinds)

    @classmethod
    def of(
        cls,
        kind: NodeKind,
        positions: Sequence[int] | Int[Tensor, " node"],
        *,
        owner: int = -1,
        features: Int[Tensor, " node"] | None = None,
        values: Float[Tensor, " node"] | None = None,
        hooks: Int[Tensor, " node"] | None = None,
    ) -> "Nodes":
        """Nodes of one kind and owner."""
        at = torch.as_tensor(positions, dtype=torch.long)
        return cls(
            torch.full_like(at, int(kind)),
            torch.full_like(at, owner),
            at,
            torch.full_like(at, -1) if features is None else features.long(),
            torch.ones(len(at), dtype=torch.float64) if values is None else values.double(),
            torch.full_like(at, -1) if hooks is None else hooks.long(),
        )

    @classmethod
    def joined(cls, parts: Sequence["Nodes"]) -> "Nodes":
        """The nodes of all parts, in their order."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def __getitem__(self, which: Tensor) -> "Nodes":
        """Some nodes, by a mask or their places."""
        return Nodes(*(getattr(self, f.name)[which] for f in fields(self)))

    def of_kind(self, *kinds: NodeKind) -> Bool[Tensor, " node"]:
        """Whether each node is of one of these kinds."""
        return torch.isin(self.kinds, torch.tensor([int(kind) for kind in kinds]))

    def name(
        self, node: int, tokens: Sequence[str], dictionaries: Sequence[str], hooks: Sequence[str]
    ) -> str:
        """A node in words, with the texts of the prompt's tokens and what owners are called."""
        kind, owner = NodeKind(int(self.kinds[node])), int(self.owners[node])
        at, feature = int(self.positions[node]), int(self.features[node])
        end = {NodeKind.POSITION: f" {at}", NodeKind.BIAS: ""}.get(kind, f" @ {at}")
        text = tokens[at] if kind == NodeKind.TOKEN else ""
        return name_anywhere(kind, owner, feature, text, dictionaries, hooks) + end

    def to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each node; kinds by name."""
        import pandas as pd

        table = {f.name.removesuffix("s"): getattr(self, f.name).tolist() for f in fields(self)}
        table["kind"] = [NodeKind(kind).name.lower() for kind in table["kind"]]
        return pd.DataFrame(table).rename_axis("node")


def name_anywhere(
    kind: NodeKind,
    owner: int,
    feature: int,
    text: str,
    dictionaries: Sequence[str],
    hooks: Sequence[str],
) -> str:
    """A node in words, without its position; `text` is that of a token node."""
    return {
        NodeKind.TARGET: lambda: "target",
        NodeKind.FEATURE: lambda: f"{dictionaries[owner]} {feature}",
        NodeKind.ERROR: lambda: f"error of {hooks[owner]}",
        NodeKind.TOKEN: lambda: f"token {text!r}",
        NodeKind.POSITION: lambda: "position",
        NodeKind.REMAINDER: lambda: f"remainder of MLP {owner}",
        NodeKind.HEAD: lambda: f"head {owner}.{feature}",
        NodeKind.BIAS: lambda: "bias",
        NodeKind.PRUNED: lambda: "pruned",
    }[kind]()
