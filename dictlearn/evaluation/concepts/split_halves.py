"""The detectors of all families, evaluated on each half of the sequences."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.concepts.detectors import Detectors, DirectionDetectors, FeatureDetectors
from dictlearn.evaluation.concepts.random_features import RandomFeatures
from dictlearn.evaluation.stream.activations import ActivationStream, on_cpu
from dictlearn.lm.forward import default_batch_size
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.records.concepts import Family

_TOKENS_AT_ONCE = 1 << 13


@dataclass(frozen=True)
class Half:
    """Labels and detectors on the tokens of one half of the sequences."""

    labels: Bool[Tensor, "concept n"]
    sequences: Int[Tensor, " n"]
    """Index of the sequence of each token, within the half."""
    n_sequences: int
    features: Mapping[str, Detectors]
    """The features of each dictionary."""
    random: Mapping[str, Detectors]
    """As many random features for each dictionary."""
    baselines: Mapping[Site, Mapping[Family, Detectors]]
    """Directions of the model at each target, by family."""


def halves(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel,
    tokens: Tokens,
    labels: Bool[Tensor, "concept b pos"],
    parts: Sequence[Int[Tensor, " _"]],
    seed: int,
) -> list[Half]:
    """The detectors on every part of the sequences.

    Principal components and random features, drawn with `seed`, are fitted to the first part.
    """
    targets = dict.fromkeys(d.sites.target for d in dictionaries.values())
    mlps = {target: _mlps_of_layers(model, target) for target in targets}
    used = [*(d.sites for d in dictionaries.values()), *(s for some in mlps.values() for s in some)]
    hooks = list(dict.fromkeys(hook for sites in used for hook in sites.hooks))
    components: dict[Site, Float[Tensor, "d d"]] = {}
    untrained: dict[str, RandomFeatures] = {}
    found = []
    for part in parts:
        ordinary = tokens.ordinary[part]
        rows = _rows(model, tokens.ids[part], ordinary, hooks)
        baselines: dict[Site, Mapping[Family, Detectors]] = {}
        for target in targets:
            y = rows.joined(target)
            if target not in components:
                components[target] = torch.linalg.eigh(y.T.double().cov()).eigenvectors.to(y)
            baselines[target] = _directions(y, components[target], rows, mlps[target])
        features: dict[str, Detectors] = {}
        random: dict[str, Detectors] = {}
        for name, dictionary in dictionaries.items():
            x = rows.joined(dictionary.sites.source)
            acts = _encoded(dictionary, x)
            if name not in untrained:
                untrained[name] = RandomFeatures.like(dictionary, acts, x, seed)
            features[name] = FeatureDetectors(acts)
            random[name] = FeatureDetectors(_encoded(untrained[name], x))
        sequences = ordinary.nonzero()[:, 0]
        of_part = labels[:, part][:, ordinary]
        found.append(Half(of_part, sequences, len(part), features, random, baselines))
    return found


def _directions(
    y: Float[Tensor, "n d"],
    components: Float[Tensor, "d d"],
    rows: Rows,
    mlps: Mapping[Sites, MLPWeights],
) -> dict[Family, Detectors]:
    """The neurons, if there are known ones, the basis and the principal components at a target."""
    hidden = [_hidden(mlp, rows.joined(sites.source)) for sites, mlp in mlps.items()]
    neurons = {Family.NEURONS: DirectionDetectors(torch.cat(hidden, dim=1))} if hidden else {}
    return {
        **neurons,
        Family.BASIS: DirectionDetectors(y),
        Family.PCA: DirectionDetectors(y @ components.flip(1)),
    }


def _rows(
    model: LanguageModel,
    ids: Int[Tensor, "b pos"],
    ordinary: Bool[Tensor, "b pos"],
    hooks: Sequence[str],
) -> Rows:
    """The activations of non-special tokens, on the CPU."""
    batch_size = default_batch_size(model, ids.shape[1])
    stream = ActivationStream(model, ids, ordinary, hooks, batch_size)
    parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
    with stream.batches() as batches:
        for batch in batches:
            for hook, rows in parts.items():
                rows.append(batch.rows(hook).float().cpu())
    return Rows({hook: torch.cat(rows) for hook, rows in parts.items()})


@torch.no_grad()
def _encoded(dictionary: FeatureDictionary, x: Float[Tensor, "n d"]) -> SparseActs:
    """The coefficients of `x`, encoded in blocks, on the CPU."""
    parts = [
        dictionary.encode_sparse(some.to(dictionary.x_mean.device))
        for some in x.split(_TOKENS_AT_ONCE)
    ]
    acts = on_cpu(SparseActs.concatenated(parts, dictionary.n_features))
    return SparseActs(acts.offsets, acts.indices, acts.values.float(), acts.n_features)


def _hidden(mlp: MLPWeights, x: Float[Tensor, "n d"]) -> Float[Tensor, "n hidden"]:
    """The hidden activations of an MLP, on the CPU."""
    x = x.to(mlp.W_in)
    return torch.cat([mlp.hidden(some).float().cpu() for some in x.split(_TOKENS_AT_ONCE)])


def _mlps_of_layers(model: LanguageModel, target: Site) -> dict[Sites, MLPWeights]:
    """The MLPs in the layers of a target's hooks; none unless there is one for each."""
    found = {}
    for hook in target.hooks:
        layer = re.match(r"blocks\.(\d+)\.", hook)
        if layer is None:
            return {}
        try:
            sites = mlp_sites(model, int(layer[1]))
        except InputError:
            return {}
        weights = mlp_weights(model, sites)
        if weights is None:
            return {}
        found[sites] = weights
    return found
