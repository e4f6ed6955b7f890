"""Head loadings: the attention heads through which an edge of a graph leads.

An edge sums over all routes from its source to its target: along the residual stream and the
tangents of MLPs, and through one head after another. Every route that moves between tokens has one
head that it passes last. With the outputs of all heads cut, the gradient of the target in the
output of a head is that of the routes on which this head is the last; times the change of that
output by the source, through all heads before, it is their part of the edge (Kamath et al. 2025,
"Tracing Attention Computation Through Feature Interactions", for one head on each route).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.circuits.changed import model_of_graph
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Function, Target, functions_of
from dictlearn.circuits.unit_pass import require_heads
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.numbers import whole
from dictlearn.lm.hooks import LanguageModel
from dictlearn.progress import progress as progress_bar

if TYPE_CHECKING:
    import pandas as pd

DIRECT = -1
"""The layer and the head of routes that no head is on."""


class _Routes(NamedTuple):
    """The parts of the edges of all nodes to one function: a direct one, and one for each head."""

    heads: list[tuple[int, int]]
    """Layer and head of each part."""
    loading: Float[Tensor, "part node"]
    """Of all routes on which the head is the last."""
    alone: Float[Tensor, "part node"]
    """Of those on which it is the only one."""


def head_loadings(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target,
    edges: Sequence[tuple[int | str, int | str]] | None = None,
    *,
    n: int = 10,
    progress: bool = True,
) -> "pd.DataFrame":
    """The parts of edges that lead through each attention head, and the part that does not.

    A route through several heads counts with the last, the one that writes at the token of the
    edge's target: its loading is what the target loses if, with everything else held, this head's
    output loses what the source brings about in it. So each route counts once, the parts of an edge
    add up to it, and the loadings of a head, over all nodes, to its direct effect. Routes within
    the token of the target, through MLPs that no dictionary replaces included, are direct.

    Args:
        model: the model of the graph.
        graph: the graph, as `attribute` made it.
        dictionaries: those of the graph.
        target: the target of the graph.
        edges: pairs of a source, a node by number or name, and a target, a row of `graph.rows` by
            number or the name of its target or feature; by default the strongest after pruning.
        n: number of these.
        progress: show a progress bar.

    Returns:
        A table with a row for the direct part of each edge, whose `layer` and `head` are -1, and
        one for each head before the target; `source` and `target` of the edge, the `loading`, and
        `alone`, its part on routes without another head.

    Raises:
        InputError: an edge is not in the graph, model, dictionaries or target are not those of
            the graph, or a layer has no value vectors or outputs of heads to cut.
    """
    import pandas as pd

    chosen = graph.strongest_edges()[:n] if edges is None else _found(graph, edges)
    sources, names = dict[int, list[int]](), graph.row_names()
    for row, source in chosen:
        sources.setdefault(row, []).append(source)
    found = dict[tuple[int, int], list[tuple[int, int, float, float]]]()
    with (
        model_of_graph(model, graph, dictionaries, cut_heads=True) as local,
        progress_bar("tracing heads", len(sources), show=progress) as done,
    ):
        require_heads(local.run.heads, model.cfg.n_layers)
        functions = _functions(local, graph, target, list(sources))
        for i, (row, function) in enumerate(zip(sources, functions, strict=True), start=1):
            routes = _routes(local, function)
            _require_same(graph.rows[row], routes.loading.sum(dim=0))
            found |= {(row, source): _parts(routes, source) for source in sources[row]}
            done(i)
    table = []
    for row, source in dict.fromkeys(chosen):
        ends = graph.name(source), names[row]
        table += [(*ends, *part) for part in found[row, source]]
    columns = ["source", "target", "layer", "head", "loading", "alone"]
    return pd.DataFrame(table, columns=columns)


def _parts(routes: _Routes, source: int) -> list[tuple[int, int, float, float]]:
    """Layer, head, loading and what of it is alone, of each part of the edge from a node."""
    columns = routes.loading[:, source].tolist(), routes.alone[:, source].tolist()
    return [(*head, *parts) for head, *parts in zip(routes.heads, *columns, strict=True)]


def _routes(local: LocalModel, function: Function) -> _Routes:
    """The routes to a function, by the last head on them."""
    edges = ~local.nodes.of_kind(NodeKind.HEAD)
    rows, gradients = local.hop([function])
    heads, loading, alone = [(DIRECT, DIRECT)], [rows[:, edges]], [rows[:, edges]]
    for layer, of_outputs in sorted(gradients.heads.items()):
        first, every = _through(local, layer, local.read_by_heads(layer, of_outputs)[0])
        heads += [(layer, head) for head in range(local.n_heads)]
        loading.append(every[:, edges])
        alone.append(first[:, edges])
    return _Routes(heads, torch.cat(loading), torch.cat(alone))


def _through(
    local: LocalModel, layer: int, readers: Float[Tensor, "head pos d_v"]
) -> tuple[Float[Tensor, "head node"], Float[Tensor, "head node"]]:
    """The contributions of nodes to what is read of the value vectors of a layer: without heads of
    earlier layers, and on all routes."""
    run, hops = local.run, list[Tensor]()
    seeds = [(run.values[layer], readers)]
    while seeds:  # each hop leads to earlier layers
        gradients = run.gradients(seeds)
        hops.append(local.shares(gradients._replace(heads={}), readers.new_zeros(len(readers))))
        seeds = [
            (run.values[before], run.through_heads(before, of_outputs))
            for before, of_outputs in gradients.heads.items()
        ]
    return hops[0], torch.stack(hops).sum(dim=0)


def _functions(
    local: LocalModel, graph: CircuitGraph, target: Target, rows: Sequence[int]
) -> list[Function]:
    """The functions that rows of the graph are of.

    Raises:
        InputError: the target is not that of the graph.
    """
    explained = functions_of(target, local)
    if [one.label for one in explained] != list(graph.labels):
        raise InputError(
            f"required the target of the graph, {', '.join(map(repr, graph.labels))}, got "
            f"{', '.join(repr(one.label) for one in explained)}"
        )
    n = len(explained)
    nodes = graph.row_nodes[[row - n for row in rows if row >= n]]
    of_features = iter(local.of_nodes(nodes))
    return [explained[row].function if row < n else next(of_features) for row in rows]


def _require_same(edges: Float[Tensor, " node"], found: Float[Tensor, " other"]) -> None:
    """Raise an `InputError` unless these are the edges of the graph, up to rounding."""
    if len(found) == len(edges):
        gap, size = (found.to(edges) - edges).abs().max(), edges.abs().sum()
        if float(gap) <= torch.finfo(edges.dtype).eps ** 0.5 * float(size):
            return
    raise InputError(
        "required the model, the dictionaries and the target of the graph, got others: their "
        "edges are not those of the graph; attribute again"
    )


def _found(
    graph: CircuitGraph, edges: Sequence[tuple[int | str, int | str]]
) -> list[tuple[int, int]]:
    """Row and node of each edge.

    Raises:
        InputError: one is not in the graph, or a name is that of several rows.
    """
    nodes, rows = [graph.name(node) for node in range(len(graph.nodes))], graph.row_names()
    return [
        (_place(target, rows, "row"), _place(source, nodes, "node")) for source, target in edges
    ]


def _place(one: int | str, names: list[str], what: str) -> int:
    if isinstance(one, str):
        if names.count(one) > 1:
            raise InputError(f"several {what}s are called {one!r}: required a number instead")
        if one not in names:
            raise InputError(f"the graph has no {what} {one!r}; {nearest(one, names)}")
        return names.index(one)
    place = whole(one)
    if place is None or not 0 <= place < len(names):
        raise InputError(f"required a {what} from 0 to {len(names) - 1}, got {one!r:.80}")
    return place
