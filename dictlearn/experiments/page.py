"""Verdict, tables, figures and circuit graphs of an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.viewer import GraphView
from dictlearn.pages import Framed

_LISTED = 10


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    heading: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class DrawnGraph:
    """A circuit graph as a page that is drawn in a frame, and its strongest parts in tables."""

    heading: str
    caption: str
    folder: str
    page: Framed
    tables: Sequence[Table]


@dataclass(frozen=True)
class Graph:
    """A circuit graph that a part of the experiment saved."""

    heading: str
    caption: str
    folder: str
    """The folder of `CircuitGraph.save`, below the folder of the run."""

    def drawn(self, out: Path) -> DrawnGraph:
        """The graph of the run in the folder `out`.

        Raises:
            CorruptFileError: the graph is absent or damaged.
        """
        graph = CircuitGraph.load(out / self.folder)
        view = graph.show(title=", ".join(graph.labels))
        return DrawnGraph(self.heading, self.caption, self.folder, view.framed(), _tables(view))


@dataclass(frozen=True)
class Page:
    """Verdict, tables, figures and graphs of an experiment."""

    verdict: Sequence[str]
    tables: Sequence[Table]
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    graphs: Sequence[Graph] = ()


def _tables(view: GraphView) -> list[Table]:
    """The nodes and the edges of the most influence."""
    nodes, tokens = view.data["nodes"], view.data["tokens"]
    inner = [node for node in nodes if node["kind"] != "target"]
    strongest = sorted(inner, key=lambda node: -node["influence"])[:_LISTED]
    links = view.data["links"][:_LISTED]
    return [
        Table(
            "Strongest nodes",
            f"{len(strongest)} of {len(inner)} nodes after pruning, by influence: the share of all "
            "paths to the targets that lead through the node.",
            ["node", "token", "influence"],
            [[node["name"], tokens[node["at"]], f"{node['influence']:.1%}"] for node in strongest],
        ),
        Table(
            "Strongest edges",
            f"{len(links)} of {len(view.data['links'])} edges, by the share of all paths to the "
            "targets that lead over the edge.",
            ["from", "to", "weight", "influence"],
            [[nodes[source]["name"], nodes[target]["name"], f"{weight:+.3g}", f"{influence:.1%}"]
             for source, target, weight, _, influence in links],
        ),
    ]  # fmt: skip
