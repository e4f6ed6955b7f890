"""Graphs against interventions: what a target loses when nodes are taken away."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import LocalModel, local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Explained, Target
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked
from dictlearn.lm.patching import Patch, patched

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 64


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
    if list(dictionaries) != list(graph.dictionaries):
        raise InputError(
            f"required the dictionaries of the graph ({', '.join(graph.dictionaries)}), got "
            f"{', '.join(dictionaries) or 'none'}"
        )
    for node in (node for group in groups for node in group):
        if not 0 <= node < len(graph.nodes) or graph.nodes.kinds[node] != NodeKind.FEATURE:
            raise InputError(f"required places of feature nodes, got {node}")
    with local_model(model, graph.ids, dictionaries) as local:
        functions = target.functions(local)
        clean = _values(model, local, functions, [[]], graph, hold=hold)
        found = [
            _values(model, local, functions, groups[i : i + _BATCH], graph, hold=hold)
            for i in range(0, len(groups), _BATCH)
        ]
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
    """
    import pandas as pd

    predicted = -graph.total_effects()[0]
    features = graph.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
    order = predicted[features].abs().argsort(descending=True)[:n]
    nodes = features[order].tolist()
    groups = [[node] for node in nodes]
    return pd.DataFrame({
        "name": [graph.name(node) for node in nodes],
        "direct": (-graph.rows[0, nodes]).tolist(),
        "predicted": predicted[nodes].tolist(),
        "held": removal_effects(model, graph, dictionaries, target, groups, hold=True)[:, 0],
        "actual": removal_effects(model, graph, dictionaries, target, groups)[:, 0],
    })  # fmt: skip


@torch.no_grad()
def _values(
    model: LanguageModel,
    local: LocalModel,
    functions: Sequence[Explained],
    groups: Sequence[Sequence[int]],
    graph: CircuitGraph,
    *,
    hold: bool,
) -> Float[Tensor, "group function"]:
    """The values of functions in a pass for each group."""
    now: dict[tuple[str, str], Tensor] = {}
    patches: dict[str, list[Patch]] = {}
    for hook, delta in _deltas(local, groups, graph).items():
        patches.setdefault(hook, []).append(_added(delta))
    read = {one.function.dictionary for one in functions} - {None}
    for name in read:
        for hook in local.dictionaries[str(name)].sites.source.hooks:
            patches.setdefault(hook, []).insert(0, _kept(now, (str(name), hook)))
    held = [(name, _held(value)) for name, value in local.run.held.items() if hold]
    with warnings.catch_warnings(), patched(model, patches), hooked(model, held):
        warnings.filterwarnings("ignore", "A forward hook edited")
        final = local.run.head.read(model, local.run.ids.expand(len(groups), -1))
    columns = []
    for one in functions:
        f, x = one.function, final
        if f.dictionary is not None:
            hooks = local.dictionaries[f.dictionary].sites.source.hooks
            x = torch.cat([now[f.dictionary, hook] for hook in hooks], dim=2)
        columns.append((x[:, f.position] @ f.reader).double() + f.offset)
    return torch.stack(columns, dim=1)


def _deltas(
    local: LocalModel, groups: Sequence[Sequence[int]], graph: CircuitGraph
) -> dict[str, Float[Tensor, "group pos d"]]:
    """The change at each hook: less the rows that the nodes of a group write."""
    names, nodes = list(local.dictionaries), graph.nodes
    found: dict[str, Tensor] = {}
    for row, group in enumerate(groups):
        for node in group:
            dictionary = local.dictionaries[names[int(nodes.owners[node])]]
            target = dictionary.sites.target
            written = dictionary.atoms[nodes.features[node]] * float(nodes.values[node])
            for part, own in zip(target.parts, target.split(written), strict=True):
                if part.hook not in found:
                    shape = (len(groups), len(local.run.ids), part.d)
                    found[part.hook] = local.run.final.new_zeros(shape)
                found[part.hook][row, nodes.positions[node]] -= own.to(found[part.hook])
    return found


def _added(delta: Tensor) -> Patch:
    def add(y: Tensor, positions: Tensor) -> Tensor:
        return y + delta

    return add


def _held(value: Tensor) -> HookFunction:
    def held(activation: Tensor, hook: object) -> Tensor:
        return value.expand_as(activation)

    return held


def _kept(now: dict[tuple[str, str], Tensor], key: tuple[str, str]) -> Patch:
    def keep(x: Tensor, positions: Tensor) -> None:
        now[key] = x

    return keep
