"""One hop: the children of the last steps of paths."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from math import copysign

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.circuits.checked import require_complete
from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.described import path_nodes
from dictlearn.circuits.paths.path import NodePredicate, Path, PathNode, Step
from dictlearn.circuits.targets import Explained, Function
from dictlearn.lm.frozen_tensors import Gradients

_ENDS = (NodeKind.ERROR, NodeKind.REMAINDER, NodeKind.BIAS)
_AT_ONCE = 1 << 22
"""Numbers of a gradient in the outputs of one layer's heads, apart, in one backward pass."""


@dataclass(frozen=True)
class Open:
    """A path, and the function of the model that its last step stands for."""

    path: Path
    function: Function | None
    """None if the last node has no incoming edges."""


@dataclass(frozen=True)
class _Candidate:
    """A path whose last node is the place `node` in the nodes of a local model."""

    path: Path
    node: int
    pulled: Float[Tensor, "pos d_head"] | None
    """The gradient in the output of a head; None for other nodes."""


class Children:
    """The children of steps in the local replacement model of a prompt, with its heads cut."""

    def __init__(self, local: LocalModel, filters: Sequence[NodePredicate]) -> None:
        self._local, self._nodes = local, path_nodes(local)
        self._allowed = torch.tensor([all(fits(node) for fits in filters) for node in self._nodes])
        self._ends = local.nodes.of_kind(*_ENDS)
        width = max((before.shape[1] for before, _ in local.run.heads.values()), default=0)
        self._size = max(1, _AT_ONCE // max(1, len(local.run.ids) * local.n_heads * width))

    def root(self, explained: Explained) -> Open:
        """The path that is the target alone."""
        function = explained.function
        node = PathNode(NodeKind.TARGET, explained.label, position=function.position)
        return Open(Path((Step(node, self._local.value(function)),)), function)

    def of(self, opened: Sequence[Open], width: int | None) -> tuple[list[Path], list[Open]]:
        """The paths, with the ends of their last steps, and the paths that are one step longer.

        Of those the best `width` that end in each path's best `width` children, or all.
        """
        paths, found = [one.path for one in opened], list[_Candidate]()
        inner = [i for i, one in enumerate(opened) if one.function is not None]
        for first in range(0, len(inner), self._size):
            some = inner[first : first + self._size]
            part, candidates = self._hop([opened[i] for i in some], width)
            for i, path in zip(some, part, strict=True):
                paths[i] = path
            found = _best(found + candidates, width)
        functions = self._functions(found)
        return paths, [Open(one.path, functions.get(i)) for i, one in enumerate(found)]

    def _hop(
        self, opened: Sequence[Open], width: int | None
    ) -> tuple[list[Path], list[_Candidate]]:
        functions = [one.function for one in opened if one.function is not None]
        rows, gradients = self._local.hop(functions)
        require_complete(self._local, rows, [one.path.attribution for one in opened])
        paths, found = list[Path](), list[_Candidate]()
        for i, (one, row) in enumerate(zip(opened, rows.cpu(), strict=True)):
            ends = self._steps(row, self._ends)
            last = replace(one.path.steps[-1], ends=tuple(step for _, step in ends))
            path = Path((*one.path.steps[:-1], last))
            candidates = [
                _Candidate(Path((*path.steps, step)), node, self._pulled(gradients, i, node))
                for node, step in self._steps(row, self._allowed, width)
            ]
            paths.append(path)
            found += candidates
        return paths, found

    def _steps(
        self, row: Float[Tensor, " node"], allowed: Tensor, width: int | None = None
    ) -> list[tuple[int, Step]]:
        """The largest contributions of allowed nodes, without zeros."""
        nodes = ((row != 0) & allowed).nonzero()[:, 0]
        order = row[nodes].argsort(descending=True, stable=True)[:width]
        return [
            (node, Step(self._nodes[node], value))
            for node, value in zip(nodes[order].tolist(), row[nodes[order]].tolist(), strict=True)
        ]

    def _pulled(self, gradients: Gradients, row: int, node: int) -> Tensor | None:
        nodes = self._local.nodes
        if nodes.kinds[node] != NodeKind.HEAD:
            return None
        layer, head = int(nodes.owners[node]), int(nodes.features[node])
        return gradients.heads[layer][row].unflatten(1, (self._local.n_heads, -1))[:, head].clone()

    # Functions

    def _functions(self, found: Sequence[_Candidate]) -> dict[int, Function]:
        """The functions whose values are the attributions of candidates, by their place."""
        kinds, owners = self._local.nodes.kinds, self._local.nodes.owners
        features = [i for i, one in enumerate(found) if kinds[one.node] == NodeKind.FEATURE]
        nodes = torch.tensor([found[i].node for i in features], dtype=torch.long)
        readings = self._local.of_nodes(nodes) if features else []
        functions = {
            i: self._shared(reading, found[i])
            for i, reading in zip(features, readings, strict=True)
        }
        by_layer: dict[int, list[int]] = {}
        for i, one in enumerate(found):
            if kinds[one.node] == NodeKind.HEAD:
                by_layer.setdefault(int(owners[one.node]), []).append(i)
        for layer, places in by_layer.items():
            read = self._through_heads(layer, [found[i] for i in places])
            functions |= zip(places, read, strict=True)
        return functions

    def _shared(self, reading: Function, one: _Candidate) -> Function:
        """The function that gives the attribution of a feature, in proportion to its reading.

        That of a code is its score: what a negative one lacks is a constant, so that what raises
        the score of a code raises its attribution.
        """
        attribution, value = one.path.attribution, self._local.value(reading)
        sign = copysign(1.0, float(self._local.nodes.values[one.node]))
        slope = attribution * sign / abs(value) if value else 0.0
        offset = attribution - slope * (value - reading.offset)
        return replace(reading, reader=slope * reading.reader, offset=offset)

    def _through_heads(self, layer: int, some: Sequence[_Candidate]) -> Iterator[Function]:
        """The functions of value vectors that give the attributions of heads."""
        nodes, at_once = self._local.nodes, self._size * self._local.n_heads
        before, _ = self._local.run.heads[layer]
        for first in range(0, len(some), at_once):
            part = some[first : first + at_once]
            seeds = before.new_zeros(len(part), *before.shape)
            apart = seeds.unflatten(2, (self._local.n_heads, -1))
            for i, one in enumerate(part):
                apart[i, :, nodes.features[one.node]] = one.pulled
            readers = self._local.run.through_heads(layer, seeds)
            for one, reader in zip(part, readers, strict=True):
                position = int(nodes.positions[one.node])
                yield Function(position, reader[position], 0.0, layer=layer)


def _best(found: list[_Candidate], width: int | None) -> list[_Candidate]:
    """The candidates with the largest attributions, in order."""
    n = len(found) if width is None else width
    return nlargest(n, found, key=lambda one: one.path.attribution)
