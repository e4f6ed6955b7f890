"""Density of features and the fraction of dead features, over the rows given."""

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs


def feature_density(acts: SparseActs) -> Float[Tensor, " feature"]:
    """The fraction of rows in which each feature is active, in [0, 1].

    Raises:
        InputError: there are no rows.

    >>> import torch
    >>> acts = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    >>> feature_density(SparseActs.from_dense(acts)).tolist()
    [0.5, 0.0, 1.0]
    """
    if len(acts) == 0:
        raise InputError("required at least one row to count over, got none")
    return acts.firing_counts() / len(acts)


def dead_fraction(density: Float[Tensor, " feature"]) -> Float[Tensor, ""]:
    """The fraction of features whose density is exactly 0 (dead features).

    In [0, 1], lower is better. It decreases with the number of rows, so compare it only between
    evaluations on the same tokens.

    Raises:
        InputError: there are no features.

    >>> import torch
    >>> dead_fraction(torch.tensor([0.5, 0.0, 1.0, 0.0])).item()
    0.5
    """
    if density.numel() == 0:
        raise InputError("required the density of at least one feature, got none")
    return (density == 0).to(density.dtype).mean()
