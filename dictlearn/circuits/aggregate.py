"""The graphs of several prompts in one: what a feature contributes on average, and how surely."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.nodes import NodeKind, name_anywhere
from dictlearn.core.errors import InputError
from dictlearn.metrics.intervals import Interval, jackknife_interval, student_quantile

_KEY = ["kind", "owner", "feature", "position"]
"""Which nodes of different prompts are one; see `_keys`."""
_ENDS = [f"{end}_{part}" for end in ("source", "target") for part in _KEY]
_ANYWHERE = (NodeKind.BIAS, NodeKind.TARGET, NodeKind.PRUNED)
"""Kinds that have no position."""


@dataclass(frozen=True)
class GraphAggregate:
    """Nodes and edges over the graphs of several prompts.

    All means are over all prompts, with 0 where a prompt does not have a node or edge; `low` and
    `high` are the ends of 95 % intervals over prompts, each by itself (`nan` for one prompt).
    """

    n_prompts: int
    target: Interval
    """The mean value of the target; of several functions, their mean by weight."""
    nodes: pd.DataFrame
    """All nodes, the most influential first. Those of one feature, error or token (`feature` is its
    id) at several positions are one. `present` and `kept`: the shares of prompts that have it, and
    that have it after pruning; `activation`: the mean coefficient of a feature over the tokens
    where it is active, 1 of other nodes; `influence`: the mean influence; `direct`: the mean edge
    to the target, pruned or not, with `low` and `high`. The column `direct` adds up to the value of
    `target`."""
    edges: pd.DataFrame
    """Edges that are left after pruning in some prompt, the largest first. `kept`: the share of
    prompts in which it is left; `weight`: its mean, with `low` and `high`. The rest of the edges
    into a target or feature has the source `pruned`: so the weights into the target add up to its
    value, and those into a feature to the mean of its coefficients (of its scores, if they are 0 or
    1) where it is left and the graph has its edges."""


def aggregate_graphs(
    graphs: Iterable[CircuitGraph],
    *,
    by_position: bool = False,
    node_share: float = 0.8,
    edge_share: float = 0.98,
) -> GraphAggregate:
    """Means over the graphs of several prompts, of nodes and edges that they share.

    Each graph is read once and can be forgotten then, as those of `attribute_all`.

    Args:
        graphs: of the same dictionaries; prompts and targets may differ.
        by_position: take nodes at different positions for different ones, counted from the end (the
            last token is -1): for prompts that follow one pattern.
        node_share: the share of influence that nodes have after pruning, as in `pruned`.
        edge_share: that of edges.

    Raises:
        InputError: there is no graph, or two are of different dictionaries.
    """
    first: CircuitGraph | None = None
    nodes, edges, values, texts = list[pd.DataFrame](), list[pd.DataFrame](), [], dict[int, str]()
    for prompt, graph in enumerate(graphs):
        first = first or graph
        _require_same(first, graph)
        texts |= zip(graph.ids.tolist(), graph.tokens, strict=True)
        keys, (keep, links) = _keys(graph, by_position), graph.pruned(node_share, edge_share)
        nodes.append(_nodes(graph, keys, keep).assign(prompt=prompt))
        edges.append(_edges(graph, keys, keep, links).assign(prompt=prompt))
        values.append(float(graph.weights @ graph.row_sums()[: len(graph.weights)]))
    if first is None:
        raise InputError("required at least one graph, got none")
    named = _Names(first, texts, by_position)
    x = torch.tensor(values, dtype=torch.float64)
    return GraphAggregate(
        len(x),
        jackknife_interval(float(x.mean()), (x.sum() - x) / (len(x) - 1)),
        _of_nodes(pd.concat(nodes), len(x), named),
        _of_edges(pd.concat(edges), len(x), named),
    )


def _require_same(first: CircuitGraph, graph: CircuitGraph) -> None:
    for what in ("dictionaries", "n_features", "hooks", "binary"):
        wanted, found = list(getattr(first, what)), list(getattr(graph, what))
        if wanted != found:
            raise InputError(
                f"required graphs of the same dictionaries, got {what} {wanted} and {found}"
            )


# One graph


def _keys(graph: CircuitGraph, by_position: bool) -> Int[Tensor, "node 4"]:
    """Kind, owner and feature (the id of a token) of each node, and its position from the end."""
    nodes = graph.nodes
    from_end = torch.where(nodes.positions < 0, 0, nodes.positions - len(graph.tokens))
    positions = from_end if by_position else torch.zeros_like(from_end)
    return torch.stack([nodes.kinds, nodes.owners, nodes.features, positions], dim=1).long()


def _nodes(graph: CircuitGraph, keys: Int[Tensor, "node 4"], keep: Tensor) -> pd.DataFrame:
    """The sums over nodes of one key."""
    frame = pd.DataFrame(keys.numpy(), columns=_KEY)
    rows = graph.rows[: len(graph.weights)].double()
    frame["direct"] = (graph.weights @ rows).numpy()
    frame["influence"] = graph.influence().numpy()
    frame["activation"] = graph.nodes.values.numpy()
    frame["tokens"] = 1
    frame["kept"] = keep.long().numpy()
    found = frame.groupby(_KEY, as_index=False).sum()
    found["kept"] = found["kept"].clip(upper=1)
    return found


def _edges(
    graph: CircuitGraph,
    keys: Int[Tensor, "node 4"],
    keep: Bool[Tensor, " node"],
    links: Bool[Tensor, "row node"],
) -> pd.DataFrame:
    """The sums over edges of one pair of keys; what pruning took of each row has a source too."""
    n_targets = len(graph.weights)
    ends = torch.cat([_key(NodeKind.TARGET).expand(n_targets, -1), keys[graph.row_nodes]])
    scale = torch.cat([graph.weights, torch.ones(len(graph.row_nodes), dtype=torch.float64)])
    row, source = links.nonzero(as_tuple=True)
    weights = graph.rows[links].double() * scale[row]
    rest = (graph.row_sums() * scale).index_add(0, row, -weights)
    own = torch.cat([torch.ones(n_targets, dtype=torch.bool), keep[graph.row_nodes]])
    pruned = _key(NodeKind.PRUNED).expand(int(own.sum()), -1)
    pairs = torch.cat([
        torch.cat([keys[source], ends[row]], dim=1), torch.cat([pruned, ends[own]], dim=1)
    ])  # fmt: skip
    frame = pd.DataFrame(pairs.numpy(), columns=_ENDS)
    frame["weight"] = torch.cat([weights, rest[own]]).numpy()
    return frame.groupby(_ENDS, as_index=False).sum()


def _key(kind: NodeKind) -> Int[Tensor, "1 4"]:
    """The key of nodes that have nothing but a kind."""
    return torch.tensor([[int(kind), -1, -1, 0]])


# All graphs


class _Names:
    """Nodes in words, by their keys."""

    def __init__(self, graph: CircuitGraph, texts: dict[int, str], by_position: bool) -> None:
        self.dictionaries, self._hooks = list(graph.dictionaries), list(graph.hooks)
        self._texts, self.by_position = texts, by_position

    def of(self, keys: Iterable[Sequence[int]]) -> Iterator[str]:
        """The name of each key."""
        for number, owner, feature, position in keys:
            kind, text = NodeKind(number), self._texts.get(feature, "")
            name = name_anywhere(kind, owner, feature, text, self.dictionaries, self._hooks)
            has_position = self.by_position and kind not in _ANYWHERE
            yield f"{name} @ {position}" if has_position else name


def _of_nodes(frame: pd.DataFrame, n: int, named: _Names) -> pd.DataFrame:
    found = _means(frame, _KEY, "direct", n)
    sums = frame.groupby(_KEY)[["influence", "activation", "tokens", "kept"]].sum()
    of_keys = found.index.to_frame(index=False)
    owners = of_keys["owner"].where(of_keys["kind"] == NodeKind.FEATURE, -1)
    table = pd.DataFrame({
        "name": list(named.of(found.index)),
        "kind": [NodeKind(kind).name.lower() for kind in of_keys["kind"]],
        "dictionary": [named.dictionaries[i] if i >= 0 else None for i in owners],
        "feature": of_keys["feature"],
        **({"position": of_keys["position"]} if named.by_position else {}),
    })  # fmt: skip
    table["present"] = found["n"].to_numpy() / n
    table["kept"] = sums["kept"].to_numpy() / n
    table["activation"] = (sums["activation"] / sums["tokens"]).to_numpy()
    table["influence"] = sums["influence"].to_numpy() / n
    for column in ("direct", "low", "high"):
        table[column] = found[column].to_numpy()
    return table.sort_values("influence", ascending=False, kind="stable", ignore_index=True)


def _of_edges(frame: pd.DataFrame, n: int, named: _Names) -> pd.DataFrame:
    found = _means(frame, _ENDS, "weight", n)
    pairs = list(found.index)
    table = pd.DataFrame({
        "source": list(named.of(pair[:4] for pair in pairs)),
        "target": list(named.of(pair[4:] for pair in pairs)),
        "kept": found["n"].to_numpy() / n,
    })  # fmt: skip
    for column in ("weight", "low", "high"):
        table[column] = found[column].to_numpy()
    return table.sort_values("weight", key=abs, ascending=False, kind="stable", ignore_index=True)


def _means(frame: pd.DataFrame, keys: list[str], column: str, n: int) -> pd.DataFrame:
    """The mean of a column over `n` prompts with the ends of its interval, and `n`, the number of
    prompts that have a row; the others count as 0. Sorted by key.

    The intervals are those of `jackknife_interval`, which for a mean has a closed form.
    """
    groups = frame.groupby(keys)[column]
    found = pd.DataFrame({column: groups.sum() / n, "n": groups.count()})
    apart = (frame[column] - groups.transform("sum") / n) ** 2
    squares = apart.groupby([frame[key] for key in keys]).sum()
    squares += (n - found["n"]) * found[column] ** 2
    quantile = student_quantile(n - 1) if n > 1 else math.nan
    margin = quantile * np.sqrt(squares / max(n * (n - 1), 1))
    return found.assign(low=found[column] - margin, high=found[column] + margin)
