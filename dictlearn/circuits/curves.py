"""Faithfulness and completeness of circuits: the model with a circuit alone, and without it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.circuits.changed import (
    AT_ONCE,
    Change,
    changed_values,
    model_of_graph,
    require_features,
)
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import LocalModel
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Target, functions_of
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.lm.hooks import LanguageModel

if TYPE_CHECKING:
    import pandas as pd


def circuit_curves(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target,
    sizes: Sequence[int] | None = None,
    *,
    order: Sequence[int] | Int[Tensor, " m"] | None = None,
    n_random: int = 3,
    seed: int = 0,
    hold: bool = False,
) -> "pd.DataFrame":
    """How much of a target circuits of the first nodes of an order bring about by themselves.

    Let `m` be the value of the target (of several functions, their mean by weight) when only some
    of the feature nodes of the graph are left. For a circuit C of such nodes,

        faithfulness = (m(C) - m(nothing)) / (m(all) - m(nothing))

    and completeness is the same of the nodes that are not in C (Marks et al. 2024, "Sparse Feature
    Circuits"; Wang et al. 2022). A circuit that brings about the target has
    faithfulness 1 and completeness 0; either may be below 0 or above 1, and neither needs to be
    monotone. Both are `nan` where `m(all)` equals `m(nothing)`.

    In each pass, the coefficients of all features but the nodes that are left are 0, also those of
    features that are inactive on the prompt and would become active; the nodes that are left follow
    the changed pass. The errors, biases and skips of dictionaries stay: a target `y` with
    coefficients `f` becomes `y + decode(f') - decode(f)`.

    Args:
        model: the model of the graph.
        graph: the graph, whose prompt is used.
        dictionaries: those of the graph.
        target: the target of the graph, or another.
        sizes: numbers of nodes, from 0 on; by default 1, 2, 4 and so on, and all.
        order: places of feature nodes in `graph.nodes`; by default by the size of their total
            effects in the graph, the largest first.
        n_random: number of random orders of all feature nodes, for comparison.
        seed: seed of these.
        hold: hold attention patterns and the scales of norms at their values on the prompt.

    Returns:
        A table with columns `nodes` (`circuit` or `random`), `draw` (number of a random order),
        `size`, `only` and `without` (values of `m` of the circuit and of its complement),
        `faithfulness` and `completeness`.

    Raises:
        InputError: a node of `order` is no feature or repeated, a size is not from 0 to the number
            of nodes, or the dictionaries are not those of the graph.
    """
    import pandas as pd

    features = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    ordered = _by_total_effect(graph, features) if order is None else torch.as_tensor(order).long()
    require_features(graph, ordered.tolist())
    chosen = _sizes(len(ordered)) if sizes is None else list(sizes)
    _require_fitting(chosen, ordered, n_random)
    generator = torch.Generator().manual_seed(seed)
    orders = [("circuit", 0, ordered)]
    for draw in range(n_random):
        shuffled = features[torch.randperm(len(features), generator=generator)]
        orders.append(("random", draw, shuffled))
    rows = [(nodes, draw, size) for nodes, draw, _ in orders for size in chosen]
    circuits = [own[:size] for _, _, own in orders for size in chosen]
    only, without, nothing, clean = _measured(model, graph, dictionaries, target, circuits, hold)
    table = pd.DataFrame(rows, columns=["nodes", "draw", "size"])
    table["only"], table["without"] = only.tolist(), without.tolist()
    whole = clean - nothing if clean != nothing else float("nan")
    table["faithfulness"] = ((only - nothing) / whole).tolist()
    table["completeness"] = ((without - nothing) / whole).tolist()
    return table


def _by_total_effect(graph: CircuitGraph, features: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    effects = (graph.weights @ graph.total_effects())[features].abs()
    return features[effects.argsort(descending=True, stable=True)]


def _sizes(n: int) -> list[int]:
    """Powers of two below `n`, and `n`.

    >>> _sizes(5)
    [1, 2, 4, 5]
    """
    return [*(2**i for i in range((n - 1).bit_length() if n > 1 else 0)), *([n] if n else [])]


def _require_fitting(sizes: Sequence[int], order: Int[Tensor, " m"], n_random: int) -> None:
    if len(order.unique()) < len(order):
        raise InputError("required an order with each node once, got one that is repeated")
    for size in sizes:
        n = whole(size)
        if n is None or not 0 <= n <= len(order):
            raise InputError(f"required sizes from 0 to {len(order)}, the nodes, got {size!r:.80}")
    if (draws := whole(n_random)) is None or draws < 0:
        raise InputError(f"required a number of random orders of at least 0, got {n_random!r:.80}")


def _measured(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target,
    circuits: Sequence[Int[Tensor, " _"]],
    hold: bool,
) -> tuple[Float[Tensor, " circuit"], Float[Tensor, " circuit"], float, float]:
    """The values with each circuit alone and without it, with nothing, and with everything."""
    features = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    others = [features[~torch.isin(features, circuit)] for circuit in circuits]
    kept = [*circuits, *others, features[:0], features]
    with model_of_graph(model, graph, dictionaries) as local:
        functions = functions_of(target, local)
        weights = torch.tensor([one.weight for one in functions], dtype=torch.float64)
        parts = []
        for start in range(0, len(kept), AT_ONCE):
            some = kept[start : start + AT_ONCE]
            change = _ablation(local, graph, some)
            parts.append(changed_values(model, local, functions, change, len(some), hold=hold))
    m = torch.cat(parts).cpu() @ (weights / weights.sum())
    only, without = m[: len(circuits)], m[len(circuits) : -2]
    return only, without, float(m[-2]), float(m[-1])


def _ablation(
    local: LocalModel, graph: CircuitGraph, circuits: Sequence[Int[Tensor, " _"]]
) -> Change:
    """Sets to 0 the coefficients of all features but those of each circuit."""
    n, names = len(local.run.ids), list(local.dictionaries)
    rows = torch.arange(len(circuits)).repeat_interleave(torch.tensor([len(c) for c in circuits]))
    nodes = graph.nodes[torch.cat(list(circuits))]
    places = rows * n + nodes.positions

    def change(name: str, x: Tensor, y: Tensor) -> Tensor:
        dictionary = local.dictionaries[name]
        acts = dictionary.encode_sparse(x.flatten(0, 1).to(dictionary.x_mean.device))
        own, size = nodes.owners == names.index(name), dictionary.n_features
        kept = (places * size + nodes.features)[own].to(acts.indices.device)
        off = acts.where(~torch.isin(acts.rows() * size + acts.indices, kept))
        return y - dictionary.write(off).to(y).view_as(y)

    return change
