"""Nearest features, by the cosine of atoms, in other dictionaries with the same target."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.numbers import significant
from dictlearn.records.features import Neighbor

_ATOMS_AT_ONCE = 1 << 14


def nearest_atoms(
    directions: Float[Tensor, "k d"], atoms: Float[Tensor, "feature d"], n: int
) -> tuple[Float[Tensor, "k _"], Int[Tensor, "k _"]]:
    """The cosines and indices of the `n` atoms nearest to each direction, the nearest first.

    Atoms are compared in blocks, so that at most a few thousand cosines per direction are in
    memory. An atom or direction of zeros has cosine 0 with everything.

    >>> nearest_atoms(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [5.0, 0.0]]), 1)
    (tensor([[1.]]), tensor([[1]]))
    """
    queries = normalize(directions.float(), dim=1)
    cosines = queries.new_zeros(len(queries), 0)
    indices = torch.zeros(len(queries), 0, dtype=torch.long, device=queries.device)
    for first in range(0, len(atoms), _ATOMS_AT_ONCE):
        some = normalize(atoms[first : first + _ATOMS_AT_ONCE].to(queries), dim=1)
        numbers = torch.arange(first, first + len(some), device=queries.device)
        cosines = torch.cat([cosines, queries @ some.T], dim=1)
        indices = torch.cat([indices, numbers.expand(len(queries), -1)], dim=1)
        cosines, places = cosines.topk(min(n, cosines.shape[1]), dim=1)
        indices = indices.gather(1, places)
    return cosines, indices


@torch.no_grad()
def neighbors(
    directions: Float[Tensor, "k d"], others: Mapping[str, FeatureDictionary], n: int
) -> list[list[Neighbor]]:
    """The `n` nearest features of each direction, in every one of these dictionaries."""
    found: list[list[Neighbor]] = [[] for _ in directions]
    for name, dictionary in others.items():
        if not dictionary.n_features:
            continue
        atoms = dictionary.atoms
        cosines, indices = nearest_atoms(directions.to(atoms.device), atoms, n)
        for mine, cosine, index in zip(found, cosines.tolist(), indices.tolist(), strict=True):
            pairs = zip(index, cosine, strict=True)
            mine.extend(Neighbor(name, i, significant(c)) for i, c in pairs)
    return found
