"""`attribute`: the attribution graph of a prompt; `attribute_all`: those of several prompts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.circuits.about import origin
from dictlearn.circuits.checked import ids_of, require_complete
from dictlearn.circuits.graph import CircuitGraph
from dictlearn.circuits.local_model import LocalModel, local_model
from dictlearn.circuits.measures import influence
from dictlearn.circuits.nodes import NodeKind, Nodes
from dictlearn.circuits.rows import Rows
from dictlearn.circuits.targets import Explained, Function, Target, functions_of
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import require_same_model
from dictlearn.progress import progress as progress_bar

_QUEUE = 256
"""Features that are expanded before influence is computed anew."""
_AT_ONCE = 1 << 22
"""Numbers of a gradient at one hook, of all functions together, in one backward pass."""
_PATTERNS = 1 << 25
"""Numbers of the attention patterns of a layer, which a backward pass repeats for each function."""

Prompt: TypeAlias = str | Int[Tensor, " _"]
"""A text, which BOS precedes if the model has one, or ids."""


def attribute(
    model: LanguageModel,
    prompt: str | Int[Tensor, " pos"],
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target | None = None,
    *,
    n_features: int = 1024,
    in_memory: int = 1 << 29,
    allow_other_model: bool = False,
    progress: bool = True,
) -> CircuitGraph:
    """The graph of what features, tokens, errors and constants contribute to a target.

    In the local replacement model, which holds attention patterns, the scales of norms and the
    choice of active features, every edge is exact: a row of the graph adds up to the value of its
    target or feature. MLPs that no dictionary replaces take part with their tangent, and a node for
    the rest. Edges into a feature are found for the `n_features` most influential ones.

    Args:
        model: the language model.
        prompt: a text, which BOS precedes if the model has one, or ids.
        dictionaries: of any kind, by name, at different targets.
        target: by default the most probable next tokens.
        n_features: number of features whose incoming edges are found.
        in_memory: largest size of all edges together, in bytes, that is held in memory; larger
            graphs have them in a temporary file, which is gone with the graph. No number changes.
        allow_other_model: also take dictionaries of another model.
        progress: show a progress bar.

    Raises:
        InputError: dictionaries or target do not fit the model or the prompt, or the model has a
            part that is not linear when attention patterns, norms and MLPs are held.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        StorageError: the folder for temporary files has no room for the edges.
    """
    (given,) = _given(model, [prompt], dictionaries, n_features, in_memory, allow_other_model)
    return _graph(model, given, dictionaries, target, n_features, in_memory, show=progress)


def attribute_all(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target | Sequence[Target] | None = None,
    *,
    n_features: int = 1024,
    in_memory: int = 1 << 29,
    allow_other_model: bool = False,
    progress: bool = True,
) -> Iterator[CircuitGraph]:
    """The graph of each prompt, one after the other, as of `attribute`.

    A graph of a long prompt takes much memory: `aggregate_graphs` needs each only once, so that no
    list of them is needed. What does not depend on the prompt, such as the model's fingerprint, is
    computed once.

    Args:
        model: the language model.
        prompts: texts, which BOS precedes if the model has one, or ids.
        dictionaries: of any kind, by name, at different targets.
        target: one for all prompts, or one for each; by default the most probable next tokens.
        n_features: number of features of each prompt whose incoming edges are found.
        in_memory: as of `attribute`, for each graph.
        allow_other_model: also take dictionaries of another model.
        progress: show a progress bar.

    Raises:
        InputError: there is no prompt, or not a target for each; and as of `attribute`.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
    """
    if isinstance(prompts, str | Tensor) or not prompts:
        got = "one alone" if len(prompts) else "none"
        raise InputError(f"required a list of at least one prompt, got {got}")
    targets = list(target) if isinstance(target, Sequence) else [target] * len(prompts)
    if len(targets) != len(prompts):
        raise InputError(
            f"required one target, or one for each of {len(prompts)} prompts, got {len(targets)}"
        )
    given = _given(model, prompts, dictionaries, n_features, in_memory, allow_other_model)

    def graphs() -> Iterator[CircuitGraph]:
        with progress_bar("prompts", len(prompts), show=progress) as done:
            for i, (own, one) in enumerate(zip(given, targets, strict=True), start=1):
                graph = _graph(model, own, dictionaries, one, n_features, in_memory, show=False)
                done(i)
                yield graph

    return graphs()


def _given(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    dictionaries: Mapping[str, FeatureDictionary],
    n_features: int,
    in_memory: int,
    allow_other_model: bool,
) -> list[tuple[Int[Tensor, " _"], dict[str, Any]]]:
    """The ids of each prompt, and the origin of its graph; errors are those of `attribute`."""
    for name, number in (("features", n_features), ("bytes in memory", in_memory)):
        n = whole(number)
        if n is None or n < 0:
            raise InputError(f"required a number of {name} of at least 0, got {number!r:.80}")
    ids = [ids_of(model, prompt) for prompt in prompts]
    if not allow_other_model:
        require_same_model(model, dictionaries)
    settings = {"n_features": n_features, "allow_other_model": allow_other_model}
    about = origin(model, dictionaries, **settings)
    forms = ["text" if isinstance(prompt, str) else "ids" for prompt in prompts]
    return [
        (own, about | {"settings": {"prompt": form} | settings})
        for own, form in zip(ids, forms, strict=True)
    ]


def _graph(
    model: LanguageModel,
    given: tuple[Int[Tensor, " pos"], dict[str, Any]],
    dictionaries: Mapping[str, FeatureDictionary],
    target: Target | None,
    n_features: int,
    in_memory: int,
    *,
    show: bool,
) -> CircuitGraph:
    ids, about = given
    with local_model(model, ids, dictionaries) as local:
        explained = functions_of(target, local)
        graph = _Expansion(local, explained, n_features, in_memory).run(show=show)
    return replace(graph, about=about)


class _Expansion:
    """The growth of a graph from its targets."""

    def __init__(
        self, local: LocalModel, explained: list[Explained], n_features: int, in_memory: int
    ) -> None:
        self._local, self._explained = local, explained
        self._features = local.nodes.of_kind(NodeKind.FEATURE).nonzero()[:, 0]
        self._n = min(n_features, len(self._features))
        self._rows = Rows(
            len(explained) + self._n, len(local.nodes), local.run.final.dtype, in_memory=in_memory
        )
        width = max(t.shape[1] for t in (local.run.final, *local.run.leaves.values()))
        pos, n_heads = len(local.run.ids), max(1, local.n_heads)
        most = min(64, _AT_ONCE // (pos * width), _PATTERNS // (pos * pos * n_heads))
        self._size = max(1, most)

    def run(self, *, show: bool) -> CircuitGraph:
        """The graph."""
        local, n_targets = self._local, len(self._explained)
        self._fill(0, [one.function for one in self._explained])
        nodes = torch.empty(0, dtype=torch.long)
        with progress_bar("attributing", self._n, show=show) as done:
            while len(nodes) < self._n:
                found = self._next(nodes)
                for part in found.split(self._size):
                    self._fill(n_targets + len(nodes), local.of_nodes(part))
                    nodes = torch.cat([nodes, part])
                    done(len(nodes))
        return self._graph(nodes)

    def _next(self, nodes: Int[Tensor, " done"]) -> Int[Tensor, " m"]:
        """The most influential features that are not expanded yet; those of one layer together."""
        left = self._n - len(nodes)
        waiting = torch.ones(len(self._local.nodes), dtype=torch.bool)
        waiting[nodes] = False
        candidates = self._features[waiting[self._features]]
        if self._n < len(self._features):
            of_nodes = influence(self._graph(nodes))[candidates]
            candidates = candidates[of_nodes.topk(min(_QUEUE, left)).indices]
        return candidates.sort().values

    def _fill(self, first: int, functions: list[Function]) -> None:
        """The rows of some functions, which must add up to their values."""
        for start in range(0, len(functions), self._size):
            some = functions[start : start + self._size]
            rows = self._local.contributions(some)
            require_complete(self._local, rows, [self._local.value(function) for function in some])
            self._rows.write(first + start, rows)

    def _graph(self, nodes: Int[Tensor, " expanded"]) -> CircuitGraph:
        local, explained = self._local, self._explained
        described = local.describe()
        weights = torch.tensor([one.weight for one in explained], dtype=torch.float64)
        values = [local.value(one.function) for one in explained]
        targets = Nodes.of(
            NodeKind.TARGET, [one.function.position for one in explained],
            features=torch.tensor([one.token for one in explained]),
            values=torch.tensor(values, dtype=torch.float64),
        )  # fmt: skip
        return CircuitGraph(
            ids=local.run.ids.cpu(),
            tokens=described["tokens"],
            dictionaries=described["dictionaries"],
            binary=[dictionary.traits.binary for dictionary in local.dictionaries.values()],
            hooks=described["hooks"],
            nodes=local.nodes,
            targets=targets,
            labels=[one.label for one in explained],
            weights=weights / weights.sum(),
            row_nodes=nodes,
            rows=self._rows.first(len(explained) + len(nodes)),
            about={},
            n_features=described["n_features"],
            probabilities=torch.tensor([one.probability for one in explained]).double(),
        )
