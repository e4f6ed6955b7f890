"""Similarity of two sets of directions, and the spread of a direction over basis directions.

Cosines are signed: opposite directions are different features. A zero row has no direction, and
a cosine of 0 with everything. Without directions, or with different widths, cosines raise an
`InputError`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dictlearn.core.errors import InputError

_CHUNK = 4096
"""Rows of `atoms` compared in one block: 4096 x 131,072 cosines are 2 GB."""


def max_cosine_similarity(
    atoms: Float[Tensor, "feature d"], others: Float[Tensor, "other d"]
) -> Float[Tensor, " feature"]:
    """The cosine of each of `atoms` with the most similar of `others`.

    In [-1, 1]; 1 where `others` contains the direction.

    >>> max_cosine_similarity(torch.tensor([[2.0, 0.0], [0.0, -1.0]]), torch.eye(2)).tolist()
    [1.0, 0.0]
    """
    a, b = _directions(atoms, others)
    return torch.cat([(part @ b.T).amax(dim=1) for part in a.split(_CHUNK)])


def mean_max_cosine_similarity(
    atoms: Float[Tensor, "feature d"], others: Float[Tensor, "other d"]
) -> Float[Tensor, ""]:
    """The mean over `atoms` of the largest cosine with one of `others` (MMCS).

    `mean_i max_j cos(atoms_i, others_j)` (Sharkey et al. 2022, "Taking features out of
    superposition with sparse autoencoders"). Not symmetric: with the true directions first it is
    a recall, with the learned ones first a precision.

    >>> small, large = torch.eye(4)[:1], torch.eye(4)
    >>> mean_max_cosine_similarity(small, large).item()
    1.0
    >>> mean_max_cosine_similarity(large, small).item()
    0.25
    """
    return max_cosine_similarity(atoms, others).mean()


def twin_share(atoms: Float[Tensor, "feature d"]) -> Float[Tensor, ""]:
    """The fraction of `atoms` that have a near twin: another one with a cosine above 0.9.

    >>> twin_share(torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.0, -1.0]])).item()
    0.5
    """
    directions, _ = _directions(atoms, atoms)
    own = torch.arange(len(atoms), device=atoms.device)
    largest = []
    for part, numbers in zip(directions.split(_CHUNK), own.split(_CHUNK), strict=True):
        cosines = part @ directions.T
        cosines[torch.arange(len(part)), numbers] = -1.0
        largest.append(cosines.amax(dim=1))
    return (torch.cat(largest) > 0.9).float().mean()


def matched_cosine_similarity(
    atoms: Float[Tensor, "feature d"], others: Float[Tensor, "other d"]
) -> Float[Tensor, " pair"]:
    """The cosines of the one-to-one matching of `atoms` with `others` whose sum is largest.

    One for each direction of the smaller set, in its order; no direction is used twice, so their
    mean is at most that of `max_cosine_similarity`. Solved exactly (the Hungarian method), in
    time that grows with the cube of the number of features.

    >>> twice = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> matched_cosine_similarity(twice, torch.eye(2)).sort().values.tolist()
    [0.0, 1.0]
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _directions(atoms, others)
    if len(a) > len(b):
        a, b = b, a
    cosines = a @ b.T
    rows, columns = linear_sum_assignment(cosines.double().cpu().numpy(), maximize=True)
    return cosines[torch.as_tensor(rows), torch.as_tensor(columns)]


def cosine_with_mean_direction(atoms: Float[Tensor, "feature d"]) -> Float[Tensor, " feature"]:
    """The cosine of each atom with the mean of all directions.

    Near 1 if all directions are nearly the same, as those of rarely active features of an
    autoencoder can be. 0 where directions cancel.

    >>> same = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    >>> cosine_with_mean_direction(same).tolist()
    [1.0, 1.0]
    """
    directions, _ = _directions(atoms, atoms)
    return directions @ normalize(directions.mean(dim=0), dim=0)


def neurons_per_feature(atoms: Float[Tensor, "feature d"]) -> Float[Tensor, " feature"]:
    """The effective number of basis directions of each atom: `1 / sum_i (|w_i| / sum_j |w_j|)^2`.

    From 1 (one basis direction) to d (all with equal weight); the inverse Simpson index of the
    absolute weights. `nan` for a zero row.

    >>> neurons_per_feature(torch.tensor([[0.0, -3.0], [1.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    weights = atoms.abs()
    shares = weights / weights.sum(dim=1, keepdim=True)
    return 1 / shares.square().sum(dim=1)


def _directions(
    atoms: Float[Tensor, "feature d"], others: Float[Tensor, "other d"]
) -> tuple[Float[Tensor, "feature d"], Float[Tensor, "other d"]]:
    shapes = atoms.shape, others.shape
    if any(len(s) != 2 or s[0] == 0 for s in shapes) or atoms.shape[1] != others.shape[1]:
        raise InputError(
            "required two matrices of at least one direction each, equally wide, got shapes "
            f"{tuple(atoms.shape)} and {tuple(others.shape)}; dictionaries of different targets "
            "have no directions in common"
        )
    return normalize(atoms.detach(), dim=1), normalize(others.detach().to(atoms), dim=1)
