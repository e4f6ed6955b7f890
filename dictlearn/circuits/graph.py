"""The attribution graph of a prompt."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.circuits.groups import grouped, grouped_from
from dictlearn.circuits.measures import influence, pruned, scores, total_effects
from dictlearn.circuits.nodes import Nodes
from dictlearn.circuits.rows import blocks
from dictlearn.core.own_files import OwnFiles

if TYPE_CHECKING:
    import pandas as pd

    from dictlearn.circuits.viewer import GraphView

_BLOCK = 1 << 22
"""Number of edges that are read at once."""


@dataclass(frozen=True)
class CircuitGraph:
    """Contributions of nodes to targets and to features: edges that add up.

    The first rows are those of the targets, the others those of the feature nodes `row_nodes`. A
    row adds up to the value of its target or feature (of a feature whose coefficients are 0 or 1,
    to its score), apart from rounding.
    """

    ids: Int[Tensor, " pos"]
    """The prompt."""
    tokens: Sequence[str]
    dictionaries: Sequence[str]
    binary: Sequence[bool]
    """Whether the coefficients of each dictionary are 0 or 1."""
    hooks: Sequence[str]
    """The hooks where dictionaries write."""
    nodes: Nodes
    targets: Nodes
    labels: Sequence[str]
    """The names of the targets."""
    weights: Float[Tensor, " target"]
    """The weights of the targets, which add up to 1."""
    row_nodes: Int[Tensor, " expanded"]
    """The feature nodes of which the graph has the incoming edges, strongest first."""
    rows: Float[Tensor, "row node"]
    about: Mapping[str, Any]
    """Model, dictionaries and settings."""
    n_features: Sequence[int]
    """The number of features of each dictionary."""
    probabilities: Float[Tensor, " target"]
    """The probabilities that the model gives the tokens whose logits are targets; nan of others."""
    supernodes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Groups of nodes by name; set by `grouped`."""
    pinned: Sequence[int] = field(default_factory=list)
    """Nodes that pruning does not remove; those of supernodes are pinned as well."""

    # Measures

    def influence(self) -> Float[Tensor, " node"]:
        """The influence of each node on the targets; see `circuits.measures`."""
        return influence(self)

    def total_effects(self) -> Float[Tensor, "target node"]:
        """The contribution of each node, also through others; see `circuits.measures`."""
        return total_effects(self)

    def scores(self) -> tuple[float, float]:
        """Replacement score and completeness score; see `circuits.measures`."""
        return scores(self)

    def pruned(
        self, node_share: float = 0.8, edge_share: float = 0.98
    ) -> "tuple[Bool[Tensor, ' node'], Bool[Tensor, 'row node']]":
        """The nodes and edges that are left after pruning; see `circuits.measures`."""
        return pruned(self, node_share, edge_share)

    def grouped(
        self,
        supernodes: Mapping[str, Sequence[int | str]] | None = None,
        pinned: Sequence[int | str] | None = None,
    ) -> "CircuitGraph":
        """The graph with groups of nodes by name, and pinned nodes; None leaves those it has.

        Nodes are given by number or by `name`. Pages and files show them, also where pruning would
        remove them; measures do not change.

        Raises:
            InputError: a node is not in the graph, or is in two groups, or a group is empty.
        """
        return grouped(self, supernodes, pinned)

    def grouped_from(self, path: str | Path) -> "CircuitGraph":
        """The graph with the groups and pinned nodes that were downloaded from its page.

        Raises:
            CorruptFileError: the file is absent or damaged, or its groups do not fit the graph.
        """
        return grouped_from(self, path)

    def row_sums(self) -> Float[Tensor, " row"]:
        """The sum of the edges into each target and each expanded feature."""
        return torch.cat([part.double().sum(dim=1) for part in self._blocks()])

    def absolute_sums(self, nodes: Bool[Tensor, " node"]) -> Float[Tensor, " row"]:
        """The sum of the sizes of the edges from some nodes, by row."""
        return torch.cat([part[:, nodes].abs().double().sum(dim=1) for part in self._blocks()])

    def absolute_products(self, weights: Float[Tensor, " row"]) -> Float[Tensor, " node"]:
        """The sum over rows of the sizes of edges times the weights of their rows."""
        found = torch.zeros(len(self.nodes), dtype=torch.float64)
        first = 0
        for part in self._blocks():
            own = weights[first : first + len(part)]
            if bool((own != 0).any()):
                found += own.to(part.dtype) @ part.abs()
            first += len(part)
        return found

    def products(self, weights: Float[Tensor, "m expanded"]) -> Float[Tensor, "m node"]:
        """The sum over expanded features of their edges times the weights of their rows."""
        found = torch.zeros(len(weights), len(self.nodes), dtype=torch.float64)
        first = -len(self.weights)
        for part in self._blocks():
            of_rows = part[max(0, -first) :]
            at = max(first, 0)
            found += (weights[:, at : at + len(of_rows)].to(part.dtype) @ of_rows).double()
            first += len(part)
        return found

    def edges(self, rows: Int[Tensor, " m"], nodes: Int[Tensor, " n"]) -> Float[Tensor, "m n"]:
        """The edges from some nodes into some rows, in ascending order."""
        found, first = [rows.new_empty(0, len(nodes), dtype=self.rows.dtype)], 0
        for part in self._blocks():
            own = rows[(rows >= first) & (rows < first + len(part))] - first
            found.append(part[own.unsqueeze(1), nodes])
            first += len(part)
        return torch.cat(found)

    def _blocks(self) -> Iterator[Tensor]:
        return blocks(self.rows, _BLOCK)

    # Files and pages

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write the graph to files in `folder`; the path of the JSON file among them.

        Raises:
            InputError: there is such a file, and it is not one that was saved there.
            StorageError: the folder cannot be written.
        """
        from dictlearn.circuits.storage import save_graph

        return save_graph(self, folder)

    @classmethod
    def load(cls, folder: str | Path) -> "CircuitGraph":
        """The graph that was saved in `folder`, bit for bit.

        Raises:
            CorruptFileError: a file is absent, damaged or of another format.
        """
        from dictlearn.circuits.storage import load_graph

        return load_graph(folder)

    def to_neuronpedia(self, path: str | Path, **options: Any) -> Path:
        """Write the pruned graph in the JSON of Neuronpedia and circuit-tracer; its path.

        `options` are those of `circuits.neuronpedia.neuronpedia_graph`. Constants and remainders
        have no place in that format and are left out.

        Raises:
            InputError: there is a file that was not written so, or a hook names no layer.
            StorageError: the file cannot be written.
        """
        from dictlearn.circuits.neuronpedia import write_neuronpedia

        return write_neuronpedia(self, path, **options)

    @classmethod
    def from_neuronpedia(cls, path: str | Path) -> "CircuitGraph":
        """The graph in a file of Neuronpedia or circuit-tracer, as it was after pruning.

        Raises:
            CorruptFileError: the file is damaged, or parts of it do not fit.
            InputError: it has nodes of a type that is unknown here.
        """
        from dictlearn.circuits.neuronpedia_reading import read_neuronpedia

        return read_neuronpedia(path)

    def show(self, **options: Any) -> "GraphView":
        """The pruned graph, drawn in a notebook.

        `options` are the fields of `circuits.viewer.GraphView`: a title, records of features whose
        cards are shown, the shares to prune to, and supernodes and pinned nodes as of `grouped`.
        """
        from dictlearn.circuits.viewer import GraphView

        return GraphView(self, **options)

    def to_html(self, path: str | Path, **options: Any) -> Path:
        """Write the page that `show` shows, which needs no network, to a file; its path.

        Raises:
            InputError: there is a file that was not written so, or a hook names no layer.
            StorageError: the file cannot be written.
        """
        return self.show(**options).write(path)

    # Tables

    def name(self, node: int) -> str:
        """A node in words."""
        return self.nodes.name(node, self.tokens, self.dictionaries, self.hooks)

    def nodes_to_pandas(self) -> "pd.DataFrame":
        """A table with one row for each node: what it is, its influence, and the name of it."""
        table = self.nodes.to_pandas()
        table["influence"] = self.influence().numpy()
        table["name"] = [self.name(node) for node in range(len(self.nodes))]
        names = {i: name for i, name in enumerate(self.dictionaries)}
        table["dictionary"] = [
            names[owner] if kind == "feature" else None
            for kind, owner in zip(table["kind"], table["owner"], strict=True)
        ]
        return table

    def edges_to_pandas(self, node_share: float = 0.8, edge_share: float = 0.98) -> "pd.DataFrame":
        """A table of the edges that are left after pruning, the largest first."""
        import pandas as pd

        ends, edges = self.row_names(), self.strongest_edges(node_share, edge_share)
        return pd.DataFrame({
            "source": [self.name(node) for _, node in edges],
            "target": [ends[row] for row, _ in edges],
            "weight": [float(self.rows[edge]) for edge in edges],
        })  # fmt: skip

    def strongest_edges(
        self, node_share: float = 0.8, edge_share: float = 0.98
    ) -> list[tuple[int, int]]:
        """The edges that are left after pruning as (row, node), the largest first."""
        _, links = self.pruned(node_share, edge_share)
        edges = links.nonzero()
        order = self.rows[links].abs().argsort(descending=True, stable=True)
        return [(row, node) for row, node in edges[order].tolist()]

    def row_names(self) -> list[str]:
        """The targets and the features that rows are of, in words."""
        return [*self.labels, *(self.name(int(node)) for node in self.row_nodes)]
