"""Attribution graphs in the JSON of Neuronpedia and circuit-tracer, read.

What a file holds is a graph after pruning: rows lack the edges that were pruned, and what has no
place in the format (`circuits.neuronpedia`), so they no longer add up.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.layers import layer_of
from dictlearn.circuits.neuronpedia import EMBEDDING, ERROR, FEATURE, LOGIT, Place
from dictlearn.circuits.nodes import NodeKind, Nodes
from dictlearn.circuits.storage import require_consistent
from dictlearn.core.errors import InputError
from dictlearn.core.files import entries_of, read_json, typed

_ID = re.compile(r"(E|\d+)_(-?\d+)_(\d+)")


@dataclass(frozen=True)
class _Node:
    node_id: str
    layer: str | int
    ctx_idx: int
    feature_type: str
    clerp: str = ""
    activation: float | None = None
    token_prob: float | None = None
    weight: float | None = None

    @property
    def index(self) -> int:
        """The number between layer and position in the id."""
        found = _ID.fullmatch(self.node_id)
        if found is None or int(found[3]) != self.ctx_idx:
            raise ValueError(f"a node_id 'LAYER_INDEX_{self.ctx_idx}', got {self.node_id!r:.80}")
        return int(found[2])

    @property
    def rank(self) -> int:
        """The place of an error's hook among those of its layer; circuit-tracer has one."""
        return max(-1 - self.index, 0)


@dataclass(frozen=True)
class _Link:
    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class _Ours:
    hooks: list[str]
    dictionaries: list[Place]


@dataclass(frozen=True)
class _Metadata:
    prompt_tokens: list[str]
    slug: str = ""
    scan: str = ""
    dictlearn: _Ours | None = None


@dataclass(frozen=True)
class _Chosen:
    pinnedIds: list[str] = field(default_factory=list)  # noqa: N815, the format's name
    supernodes: list[list[str]] = field(default_factory=list)

    def of(self, places: Mapping[str, int]) -> dict[str, Any]:
        """Groups and pinned nodes, as far as the graph has them; logits are no nodes there."""
        groups = dict[str, list[int]]()
        for name, *ids in filter(None, self.supernodes):
            if members := [places[node] for node in ids if node in places]:
                groups.setdefault(name, []).extend(members)
        grouped = {node for members in groups.values() for node in members}
        alone = [places[node] for node in self.pinnedIds if node in places]
        return {"supernodes": groups, "pinned": [node for node in alone if node not in grouped]}


@dataclass(frozen=True)
class _File:
    metadata: _Metadata
    nodes: list[_Node]
    links: list[_Link]
    qParams: _Chosen = field(default_factory=_Chosen)  # noqa: N815

    def of(self, feature_type: str) -> list[_Node]:
        """The nodes of this type."""
        return [node for node in self.nodes if node.feature_type == feature_type]


def read_neuronpedia(path: str | Path) -> CircuitGraph:
    """The graph in a file of Neuronpedia, of circuit-tracer, or of `CircuitGraph.to_neuronpedia`.

    Features of other programs belong to dictionaries `layer 0`, `layer 1` and so on. Values that a
    file does not have are `nan`.

    Raises:
        CorruptFileError: the file is damaged, or parts of it do not fit.
        InputError: it has nodes of a type that is unknown here.
    """
    path = Path(path)
    data = read_json(path)
    with entries_of(path):
        parts = {name: data[name] for name in ("metadata", "nodes", "links")}
        found = typed(parts | {"qParams": data.get("qParams", {})}, _File)
    known = (FEATURE, ERROR, EMBEDDING, LOGIT)
    for node in found.nodes:
        if node.feature_type not in known:
            raise InputError(f"{path}: required nodes of the types {', '.join(known)}, got "
                             f"{node.feature_type!r:.80} ({node.node_id:.80})")  # fmt: skip
    with entries_of(path):
        return require_consistent(_graph(found))


def _graph(file: _File) -> CircuitGraph:
    ours = file.metadata.dictlearn or _derived(file)
    names = list(dict.fromkeys(place.name for place in ours.dictionaries))
    by_name = {place.name: place for place in ours.dictionaries}
    targets, features, embedded = file.of(LOGIT), file.of(FEATURE), file.of(EMBEDDING)
    if not targets:
        raise ValueError("at least one node of a logit")
    nodes = Nodes.joined([_features(features, ours, names), _errors(file.of(ERROR), ours),
                          _embeddings(embedded)])  # fmt: skip
    listed = [*features, *file.of(ERROR), *embedded]
    row_nodes, rows = _rows(file, targets, features, listed)
    tokens = {node.ctx_idx: node.index for node in embedded if node.index >= 0}
    p = torch.tensor([float("nan") if n.token_prob is None else n.token_prob for n in targets])
    weights = torch.tensor([n.token_prob or 0.0 if n.weight is None else n.weight for n in targets])
    weights = weights.double() if weights.sum() > 0 else torch.ones(len(targets)).double()
    n_tokens = len(file.metadata.prompt_tokens)
    return CircuitGraph(
        ids=torch.tensor([tokens.get(at, -1) for at in range(n_tokens)], dtype=torch.long),
        tokens=file.metadata.prompt_tokens,
        dictionaries=names,
        binary=[by_name[name].binary for name in names],
        hooks=ours.hooks,
        nodes=nodes,
        targets=Nodes.of(
            NodeKind.TARGET, [n.ctx_idx for n in targets], values=torch.full_like(p, float("nan")),
            features=torch.tensor([max(n.index, -1) for n in targets]),
        ),
        labels=[n.clerp for n in targets],
        weights=weights / weights.sum(),
        row_nodes=row_nodes,
        rows=rows,
        about={"slug": file.metadata.slug, "scan": file.metadata.scan},
        n_features=[by_name[name].n_features for name in names],
        probabilities=p.double(),
        **file.qParams.of({node.node_id: i for i, node in enumerate(listed)}),
    )  # fmt: skip


def _derived(file: _File) -> _Ours:
    """A dictionary and a hook for each layer."""
    ends: dict[int, int] = {}
    for node in file.of(FEATURE):
        ends[int(node.layer)] = max(ends.get(int(node.layer), 0), node.index + 1)
    hooks = {layer: f"blocks.{layer}.hook_mlp_out"
             for layer in sorted({*ends, *(int(n.layer) for n in file.of(ERROR))})}  # fmt: skip
    places = [Place(f"layer {i}", i, hooks[i], 0, ends[i]) for i in sorted(ends)]
    return _Ours(list(hooks.values()), places)


def _features(nodes: Sequence[_Node], ours: _Ours, names: Sequence[str]) -> Nodes:
    found = [_place(node, ours.dictionaries) for node in nodes]
    values = [float("nan") if node.activation is None else node.activation for node in nodes]
    whole = {"owners": [names.index(place.name) for place in found],
             "features": [n.index - place.offset for n, place in zip(nodes, found, strict=True)],
             "hooks": [ours.hooks.index(place.hook) for place in found]}  # fmt: skip
    tensors: dict[str, Any] = {k: torch.tensor(v, dtype=torch.long) for k, v in whole.items()}
    return Nodes(
        kinds=torch.full((len(nodes),), int(NodeKind.FEATURE)),
        positions=torch.tensor([node.ctx_idx for node in nodes], dtype=torch.long),
        values=torch.tensor(values, dtype=torch.float64),
        **tensors,
    )


def _place(node: _Node, places: Sequence[Place]) -> Place:
    """The dictionary of a feature."""
    for place in places:
        first = place.offset
        if place.layer == int(node.layer) and first <= node.index < first + place.n_features:
            return place
    raise ValueError(f"a dictionary that has the feature {node.node_id!r:.80}")


def _errors(nodes: Sequence[_Node], ours: _Ours) -> Nodes:
    layers = [layer_of(hook) for hook in ours.hooks]
    found = []
    for node in nodes:
        own = [hook for hook, layer in enumerate(layers) if layer == int(node.layer)]
        found.append(Nodes.of(NodeKind.ERROR, [node.ctx_idx], owner=own[node.rank]))
    return Nodes.joined([*found, Nodes.of(NodeKind.ERROR, [])])


def _embeddings(nodes: Sequence[_Node]) -> Nodes:
    """The embeddings of tokens, and those of positions, which have no token."""
    tokens = torch.tensor([max(node.index, -1) for node in nodes], dtype=torch.long)
    found = Nodes.of(NodeKind.TOKEN, [node.ctx_idx for node in nodes], features=tokens)
    found.kinds[tokens < 0] = int(NodeKind.POSITION)
    return found


def _rows(
    file: _File, targets: Sequence[_Node], features: Sequence[_Node], listed: Sequence[_Node]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features with incoming links, and the links into targets and these."""
    columns = {node.node_id: i for i, node in enumerate(listed)}
    if len({*columns, *(n.node_id for n in targets)}) < len(listed) + len(targets):
        raise ValueError("nodes with different ids")
    ends = dict.fromkeys(link.target for link in file.links)
    expanded = [node.node_id for node in features if node.node_id in ends]
    at = {node_id: row for row, node_id in enumerate([*(n.node_id for n in targets), *expanded])}
    rows = torch.zeros(len(at), len(listed))
    for link in file.links:
        if link.target not in at or link.source not in columns:
            raise ValueError(f"a link from a node that is listed to a feature or a logit, got "
                             f"{link.source!r:.80} to {link.target!r:.80}")  # fmt: skip
        rows[at[link.target], columns[link.source]] = link.weight
    if not bool(rows.isfinite().all()):
        raise ValueError("finite weights of links")
    return torch.tensor([columns[node] for node in expanded], dtype=torch.long), rows
