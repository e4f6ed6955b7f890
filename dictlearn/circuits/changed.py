"""Values of a target in passes of the model whose features are changed."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import LocalModel, local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.targets import Explained
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked
from dictlearn.lm.in_place import InPlace, Replace, functions_of
from dictlearn.lm.patching import patched

AT_ONCE = 64
"""The number of passes that run as one batch."""
Change = Callable[[str, Float[Tensor, "b pos d_in"], Float[Tensor, "b pos d_out"]], Tensor]
"""The new target of a dictionary, given its name, source and target in passes over the prompt."""


@contextmanager
def model_of_graph(
    model: LanguageModel,
    graph: CircuitGraph,
    dictionaries: Mapping[str, FeatureDictionary],
    *,
    cut_heads: bool = False,
) -> Iterator[LocalModel]:
    """The local replacement model of the prompt of `graph`; `cut_heads` as of `local_model`.

    Raises:
        InputError: the dictionaries are not those of the graph.
    """
    if list(dictionaries) != list(graph.dictionaries):
        raise InputError(
            f"required the dictionaries of the graph ({', '.join(graph.dictionaries)}), got "
            f"{', '.join(dictionaries) or 'none'}"
        )
    for (name, dictionary), n in zip(dictionaries.items(), graph.n_features, strict=True):
        if dictionary.n_features != n:
            raise InputError(
                f"required the dictionaries of the graph, whose {name!r} has {n} features, got one "
                f"with {dictionary.n_features}"
            )
    with local_model(model, graph.ids, dictionaries, cut_heads=cut_heads) as local:
        yield local


def require_features(graph: CircuitGraph, nodes: Sequence[int]) -> None:
    """Raise an `InputError` unless all are places of feature nodes in `graph.nodes`."""
    for node in nodes:
        at = whole(node)
        if (
            at is None or not 0 <= at < len(graph.nodes)
            or graph.nodes.kinds[at] != NodeKind.FEATURE
        ):  # fmt: skip
            raise InputError(f"required places of feature nodes, got {node!r:.80}")


@torch.no_grad()
def changed_values(
    model: LanguageModel,
    local: LocalModel,
    functions: Sequence[Explained],
    change: Change,
    n: int,
    *,
    hold: bool,
) -> Float[Tensor, "n function"]:
    """The values of functions in `n` passes over the prompt of `local`, under `change`.

    With `hold`, attention patterns and the scales of norms stay as they are on the prompt. A
    function of a dictionary's source has the value from before the change of that dictionary.
    """
    sources: dict[str, Tensor] = {}
    placed = [
        InPlace(dictionary.sites, _noting(name, sources, change))
        for name, dictionary in local.dictionaries.items()
    ]
    held = [(name, _held(value)) for name, value in local.run.held.items() if hold]
    with (
        warnings.catch_warnings(), patched(model, functions_of(placed, model)),
        hooked(model, held),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", "A forward hook edited")
        final = local.run.head.read(model, local.run.ids.expand(n, -1))
    columns = []
    for one in functions:
        f = one.function
        x = final if f.dictionary is None else sources[f.dictionary]
        columns.append((x[:, f.position] @ f.reader).double() + f.offset)
    return torch.stack(columns, dim=1)


def _noting(name: str, sources: dict[str, Tensor], change: Change) -> Replace:
    def replace(x: Tensor, y: Tensor, positions: Tensor) -> Tensor:
        sources[name] = x
        return change(name, x, y)

    return replace


def _held(value: Tensor) -> HookFunction:
    def held(activation: Tensor, hook: object) -> Tensor:
        return value.expand_as(activation)

    return held
