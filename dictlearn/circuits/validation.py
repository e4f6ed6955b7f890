"""Graphs against interventions: what a target loses when nodes are taken away."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
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


def removal_effects(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target,
    groups: Sequence[Sequence[int]],
    *,
    hold: bool = False,
) -> Float[Tensor, "group function"]:
    """The change of a target's functions when what some feature nodes write is taken away.

    The model itself runs, with its MLPs: at the target of its dictionary, each node of a group
    loses its coefficient times its atom, and the rest of the pass follows.

    Args:
        model: the model of the graph.
        graph: the graph, whose prompt is used.
        dictionaries: those of the graph.
        target: the target of the graph, or another.
        groups: places of feature nodes in `graph.nodes`.
        hold: hold attention patterns and the scales of norms at their values on the prompt.

    Raises:
        InputError: a node is no feature, or the dictionaries are not those of the graph.
    """
    require_features(graph, [node for group in groups for node in group])
    with model_of_graph(model, graph, dictionaries) as local:
        functions = functions_of(target, local)

        def values(some: Sequence[Sequence[int]]) -> Float[Tensor, "group function"]:
            change = _removal(local, some, graph)
            return changed_values(model, local, functions, change, len(some), hold=hold)

        clean = values([[]])
        found = [values(groups[i : i + AT_ONCE]) for i in range(0, len(groups), AT_ONCE)]
    return torch.cat(found or [clean[:0]]) - clean


def compare_effects(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target,
    n: int = 50,
) -> "pd.DataFrame":
    """The `n` feature nodes with the largest total effects, and what removing each changes.

    Columns: `name`; `direct` and `predicted`, the direct and the total effect of a removal in the
    graph; `held`, that in the model with attention patterns and norms held; `actual`, that in the
    model itself. Effects are those on the first function of the target.

    Raises:
        InputError: `n` is no number from 0 on; or as `removal_effects`.
    """
    import pandas as pd

    most = whole(n)
    if most is None or most < 0:
        raise InputError(f"required a number of nodes of at least 0, got {n!r:.80}")

    predicted = -graph.total_effects()[0]
    features = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    order = predicted[features].abs().argsort(descending=True)[:most]
    nodes = features[order].tolist()
    groups = [[node] for node in nodes]
    return pd.DataFrame({
        "name": [graph.name(node) for node in nodes],
        "direct": (-graph.rows[0, nodes]).tolist(),
        "predicted": predicted[nodes].tolist(),
        "held": removal_effects(model, graph, dictionaries, target, groups, hold=True)[:, 0],
        "actual": removal_effects(model, graph, dictionaries, target, groups)[:, 0],
    })  # fmt: skip


def _removal(local: LocalModel, groups: Sequence[Sequence[int]], graph: CircuitGraph) -> Change:
    """Takes from each target the rows that the nodes of a group write on the prompt."""
    names, nodes = list(local.dictionaries), graph.nodes
    deltas: dict[str, Tensor] = {}
    for row, group in enumerate(groups):
        for node in group:
            name = names[int(nodes.owners[node])]
            dictionary = local.dictionaries[name]
            if name not in deltas:
                shape = (len(groups), len(local.run.ids), dictionary.sites.target.d)
                deltas[name] = local.run.final.new_zeros(shape)
            written = dictionary.atoms[nodes.features[node]] * float(nodes.values[node])
            deltas[name][row, nodes.positions[node]] -= written.to(deltas[name])

    def change(name: str, x: Tensor, y: Tensor) -> Tensor:
        return y + deltas[name] if name in deltas else y

    return change
