"""`blind_case`: a feature's circuit on its strongest prompts, without their text."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.blind.case import (
    BlindCase,
    ShownPath,
    ShownPrompt,
    Weighted,
    hash_of_weights,
)
from dictlearn.blind.coefficients import coefficients, firing_counts, peaks
from dictlearn.blind.names import blind_name, is_restricted
from dictlearn.blind.weights import Weights
from dictlearn.circuits.nodes import NodeKind
from dictlearn.circuits.paths.graph import PathGraph, paths_to_graph
from dictlearn.circuits.paths.path import Path
from dictlearn.circuits.paths.search import greedy_paths
from dictlearn.circuits.targets import FeatureTarget
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.numbers import significant
from dictlearn.core.tokens import Tokens
from dictlearn.lm.hooks import LanguageModel, require_hooks
from dictlearn.lm.identity import model_provenance, require_same_model
from dictlearn.lm.sites import require_sites

LIVE = 1e-4
"""Density above which a feature is live, and may be drawn (Dunefsky et al. 2024)."""
N_NODES, N_EDGES, N_HEADS = 20, 20, 2


def blind_case(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    tokens: Tokens,
    feature: tuple[str, int] | None = None,
    *,
    n_prompts: int = 5,
    iterations: int = 3,
    width: int = 10,
    de_embeddings: bool = True,
    restricted: bool = False,
    seed: int = 0,
) -> BlindCase:
    """A feature's circuit on the prompts where it is most active, without a word of them.

    The blind case studies of Dunefsky et al. 2024: greedy paths on the prompts, which are known by
    number alone, and what depends on the weights alone (`virtual_weights`, `de_embedding`). A
    hypothesis is then sealed (`seal_guess`), and the text is shown afterwards (`reveal_case`).

    A prompt is a block of `tokens` up to the token of its largest coefficient.

    Args:
        model: the language model, with a tokenizer.
        dictionaries: by name, at different targets; those before the feature are its circuit.
        tokens: the text to find prompts in; other text is kept for the test of the hypothesis.
        feature: dictionary and number; by default one that is active at more than 1 token in
            10,000, drawn from all dictionaries.
        n_prompts: largest number of prompts.
        iterations: largest number of hops of paths.
        width: number of paths of each length.
        de_embeddings: show the tokens of the vocabulary with the largest weights. They are words,
            but of no text.
        restricted: leave features of the first layer, which mostly tell tokens, out of the paths.
        seed: the seed of what is drawn: the feature, and the control.

    Raises:
        InputError: the feature does not exist or is never active, an argument is out of range, or
            a dictionary does not fit the model.
        ProvenanceError: a dictionary was trained on another model.
    """
    if n_prompts < 1 or not dictionaries:
        raise InputError(
            f"required a dictionary and at least 1 prompt, got {len(dictionaries)} and {n_prompts}"
        )
    _require_fit(model, dictionaries)
    name, number, control, density = _chosen(model, dictionaries, tokens, feature, seed)
    values = coefficients(model, dictionaries[name], tokens, [number])[..., 0]
    at = peaks(values, n_prompts)
    prompts = [tokens.ids[i, : position + 1] for i, position in at]
    found = [
        greedy_paths(
            model, prompt, dictionaries, FeatureTarget(name, number), iterations=iterations,
            width=width, filters=[is_restricted] if restricted else [],
        )
        for prompt in prompts
    ]  # fmt: skip
    graphs = [paths_to_graph(paths) for paths in found]
    nodes, edges = _merged(graphs, [len(prompt) for prompt in prompts])
    weights = Weights(model, dictionaries, name, number, de_embeddings=de_embeddings)
    return BlindCase(
        dictionary=name,
        feature=number,
        control=control,
        density=density,
        prompts=[
            ShownPrompt(significant(float(values[place])), _shown(paths, len(prompt)))
            for place, paths, prompt in zip(at, found, prompts, strict=True)
        ],
        nodes=nodes,
        edges=edges,
        routes=[weights.route(heads) for heads in [[], *_heads(found)]],
        upstream=weights.upstream(_features(graphs)),
        left_out=weights.left_out,
        de_embeddings=de_embeddings,
        restricted=restricted,
        tokens=tokens.describe(),
        model=model_provenance(model).to_dict(),
        weights_sha256=hash_of_weights(dictionaries[name]),
    )


def _chosen(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    tokens: Tokens,
    feature: tuple[str, int] | None,
    seed: int,
) -> tuple[str, int, int | None, float]:
    """The feature, its control if there is another live one, and its density."""
    if feature is not None:
        _require_feature(dictionaries, *feature)
        dictionaries = {feature[0]: dictionaries[feature[0]]}
    counts = firing_counts(model, dictionaries, tokens)
    live = {name: _live(own, tokens.n_tokens) for name, own in counts.items()}
    generator = torch.Generator().manual_seed(seed)
    name, number = feature or _drawn(live, generator)
    if not counts[name][number]:
        raise InputError(
            f"required a feature that is active in the text, got {name} {number}, which is not "
            f"positive at any of {tokens.n_tokens:,} tokens; use more text, or another feature"
        )
    others = {name: [other for other in live[name] if other != number]}
    control = _drawn(others, generator)[1] if others[name] else None
    return name, number, control, int(counts[name][number]) / tokens.n_tokens


def _shown(paths: list[Path], n_tokens: int) -> list[ShownPath]:
    """The paths of at least one hop, the largest attribution first."""
    longer = [path for path in paths if len(path.steps) > 1]
    return [
        ShownPath(
            [blind_name(node, n_tokens) for node in path.nodes], significant(path.attribution)
        )
        for path in sorted(longer, key=lambda path: -path.attribution)
    ]


def _merged(graphs: list[PathGraph], lengths: list[int]) -> tuple[list[Weighted], list[Weighted]]:
    """The largest nodes and edges, mean over the graphs of all prompts."""
    nodes, edges = defaultdict[str, float](float), defaultdict[str, float](float)
    for graph, n in zip(graphs, lengths, strict=True):
        for node, value in graph.nodes.items():
            nodes[blind_name(node, n)] += value / len(graphs)
        for (a, b), value in graph.edges.items():
            edges[f"{blind_name(a, n)} -> {blind_name(b, n)}"] += value / len(graphs)
    return _largest(nodes, N_NODES), _largest(edges, N_EDGES)


def _largest(values: Mapping[str, float], n: int) -> list[Weighted]:
    order = sorted(values, key=lambda name: -abs(values[name]))
    return [Weighted(name, significant(values[name])) for name in order[:n]]


def _heads(found: list[list[Path]]) -> list[list[tuple[int, int]]]:
    """The heads with the largest attributions directly before the feature, over all prompts."""
    sums = defaultdict[tuple[int, int], float](float)
    for path in (path for paths in found for path in paths if len(path.steps) == 2):
        node = path.nodes[1]
        if node.kind is NodeKind.HEAD and node.layer is not None and node.head is not None:
            sums[node.layer, node.head] += path.attribution
    return [[head] for head in sorted(sums, key=lambda head: -sums[head])[:N_HEADS]]


def _features(graphs: list[PathGraph]) -> dict[tuple[str, int], float]:
    """The attribution through each feature before the target, mean over prompts."""
    sums = defaultdict[tuple[str, int], float](float)
    for graph in graphs:
        for node, value in graph.nodes.items():
            if node.kind is NodeKind.FEATURE and node.dictionary is not None:
                sums[node.dictionary, node.feature or 0] += value / len(graphs)
    return dict(sums)


def _live(counts: Int[Tensor, " feature"], n_tokens: int) -> list[int]:
    return (counts > LIVE * n_tokens).nonzero()[:, 0].tolist()


def _drawn(live: Mapping[str, list[int]], generator: torch.Generator) -> tuple[str, int]:
    """A feature, drawn from all with the same probability."""
    every = [(name, feature) for name, some in live.items() for feature in some]
    if not every:
        raise InputError(
            "required a feature that is active at more than 1 of 10,000 tokens, got none; use more "
            "text, or dictionaries that were trained"
        )
    return every[int(torch.randint(len(every), (), generator=generator))]


def _require_feature(dictionaries: Mapping[str, FeatureDictionary], name: str, number: int) -> None:
    if name not in dictionaries:
        raise InputError(f"there is no dictionary {name!r}; {nearest(name, dictionaries)}")
    n = dictionaries[name].n_features
    if not 0 <= number < n:
        raise InputError(f"dictionary {name!r} has {n} features from 0 on, got feature {number}")


def _require_fit(model: LanguageModel, dictionaries: Mapping[str, FeatureDictionary]) -> None:
    require_hooks(model)
    if getattr(model, "tokenizer", None) is None:
        raise InputError("required a model with a tokenizer, got none; set model.tokenizer")
    require_same_model(model, dictionaries)
    require_sites(model, {name: dictionary.sites for name, dictionary in dictionaries.items()})
