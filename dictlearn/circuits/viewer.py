"""A page that draws a circuit graph: one HTML file, which loads nothing and runs no data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

from dictlearn.circuits.about import lines
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.groups import marked, shown
from dictlearn.circuits.layers import n_layers, node_layers
from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.own_files import OwnFiles
from dictlearn.pages import Framed, environment, pieces
from dictlearn.records.features import FeatureCard, FeatureRecords

_FOLDER = Path(__file__).parent / "templates"
_SCRIPTS = ("plot.js", "graph.js")
_PAGES = environment(_FOLDER)


@dataclass(frozen=True, repr=False)
class GraphView:
    """A graph after pruning, which a notebook shows as a page of its own."""

    graph: CircuitGraph
    title: str = "Circuit"
    features: FeatureRecords | None = None
    """Cards of features; those of features in the graph are shown."""
    node_share: float = 0.8
    """As of `CircuitGraph.pruned`."""
    edge_share: float = 0.98
    supernodes: Mapping[str, Sequence[int | str]] | None = None
    """Groups of nodes, as of `CircuitGraph.grouped`; None for those of the graph."""
    pinned: Sequence[int | str] | None = None
    """Pinned nodes, likewise."""

    def html(self) -> str:
        """The page.

        Raises:
            InputError: a hook names no layer, or a share is out of range.
        """
        return self.framed().source

    def framed(self) -> Framed:
        """The page, for a frame in another page.

        Raises:
            InputError: as `html`.
        """
        script = "".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS)
        source = _PAGES.get_template("graph.html.jinja").render(
            title=self.title, prompt="".join(self.graph.tokens), data=self.data,
            cards=self._cards, script=script, scores=self.graph.scores(),
            about=lines(self.graph.about),
        )  # fmt: skip
        return Framed(self.title, source, script)

    def write(self, path: str | Path) -> Path:
        """Write the page to a file; its path.

        Raises:
            InputError: there is a file at `path` that was not written so; or as `html`.
            StorageError: the file cannot be written.
        """
        own, name = OwnFiles.of(Path(path).parent, "circuit graph"), Path(path).name
        own.require(name)
        own.write_text(name, self.html())
        return Path(path)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The plain data that the page's script draws: tokens, nodes, and links between them.

        A link has its source, its target, its weight, its part of the sizes of all edges into the
        target, and its influence: that part times the influence of the target.
        """
        graph = self.graph.grouped(self.supernodes, self.pinned)
        targets = len(graph.weights)
        keep, links = shown(graph, self.node_share, self.edge_share)
        linked = links.any(dim=0) | graph.nodes.of_kind(NodeKind.TOKEN)
        linked[marked(graph)] = True
        listed = (keep & linked).nonzero()[:, 0].tolist()
        place = {node: targets + i for i, node in enumerate(listed)}
        ends = [*range(targets), *(place.get(node, -1) for node in graph.row_nodes.tolist())]
        sums = graph.absolute_sums(~graph.nodes.of_kind(NodeKind.BIAS)).tolist()
        of_nodes, layers = graph.influence().tolist(), node_layers(graph)
        of_rows = [*graph.weights.tolist(), *(of_nodes[node] for node in graph.row_nodes.tolist())]
        found = []
        for row, source in links.nonzero().tolist():
            weight = float(graph.rows[row, source])
            part = abs(weight) / sums[row]
            found.append([place[source], ends[row], weight, part, part * of_rows[row]])
        return {
            "tokens": [_shown(token) for token in graph.tokens],
            "layers": n_layers(layers),
            "nodes": [
                *(self._target(i, n_layers(layers) + 1) for i in range(targets)),
                *(self._node(node, layers[node] + 1, of_nodes[node]) for node in listed),
            ],
            "links": sorted(found, key=lambda link: -link[-1]),
            "groups": [
                [name, [place[node] for node in nodes]] for name, nodes in graph.supernodes.items()
            ],
            "pinned": [place[node] for node in graph.pinned],
        }

    @property
    def _cards(self) -> Sequence[FeatureCard]:
        return [] if self.features is None else self.features.cards

    @cached_property
    def _card_of(self) -> dict[tuple[str, int], int]:
        return {(card.dictionary, card.feature): i for i, card in enumerate(self._cards)}

    def _node(self, node: int, row: int, influence: float) -> dict[str, Any]:
        nodes = self.graph.nodes
        kind, owner = NodeKind(int(nodes.kinds[node])), int(nodes.owners[node])
        found = {
            "kind": kind.name.lower(), "name": self.graph.name(node), "row": row, "card": -1,
            "at": int(nodes.positions[node]), "value": None, "influence": influence,
        }  # fmt: skip
        if kind == NodeKind.FEATURE:
            feature = self.graph.dictionaries[owner], int(nodes.features[node])
            found["card"] = self._card_of.get(feature, -1)
            found["value"] = _finite(float(nodes.values[node]))
        return found

    def _target(self, i: int, row: int) -> dict[str, Any]:
        """A target, whose influence is its weight among the targets."""
        graph = self.graph
        value, p = float(graph.targets.values[i]), float(graph.probabilities[i])
        return {
            "kind": "target", "name": graph.labels[i], "row": row, "card": -1,
            "at": int(graph.targets.positions[i]), "value": _finite(value),
            "influence": float(graph.weights[i]), "probability": _finite(p),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return self.framed().html()

    def __repr__(self) -> str:
        n_nodes, n_links = len(self.data["nodes"]), len(self.data["links"])
        return f"GraphView({n_nodes} nodes, {n_links} edges; graph.to_html(path) writes the page)"


def _shown(token: str) -> str:
    """The text of a token, with signs for what is invisible."""
    return "".join(part for part, _ in pieces(token.lstrip(" ") or token)) or "∅"


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
