"""Rules that pick coefficients from scores."""

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.ranks import ALONE, Ranks
from dictlearn.core.sparse_acts import SparseActs


def top_k(scores: Float[Tensor, "n feature"], k: int) -> Float[Tensor, "n feature"]:
    """The `k` largest positive scores of each row in their places, zero elsewhere."""
    values, indices = scores.topk(k, dim=1, sorted=False)
    return torch.zeros_like(scores).scatter(1, indices, values.relu())


def top_k_sparse(scores: Float[Tensor, "n feature"], k: int, shards: Ranks = ALONE) -> SparseActs:
    """The same as `top_k`, without the zeros.

    With `shards`, the features are those of all of them, and these are the ones here.
    """
    values, indices = scores.topk(min(k, scores.shape[1]), dim=1, sorted=False)
    values = shards.only_largest(values, k)
    return SparseActs.from_top(values.relu(), indices, scores.shape[1])


def batch_top_k(
    scores: Float[Tensor, "n feature"], k: int, ranks: Ranks = ALONE, shards: Ranks = ALONE
) -> SparseActs:
    """The `n * k` largest positive scores of the whole batch, wherever they are.

    With `ranks` the batch, or with `shards` the features, are those of all of them, and these are
    the scores here.
    Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", section 3.
    """
    n, n_features = scores.shape
    budget = k * n * ranks.size
    values, places = scores.flatten().topk(min(budget, scores.numel()), sorted=False)
    values = shards.only_largest(ranks.only_largest(values, budget), budget)
    return SparseActs.from_flat(values.relu(), places, n, n_features)


def largest_k(scores: Float[Tensor, "n feature"], k: int) -> Float[Tensor, "n feature"]:
    """The `k` scores of largest magnitude in each row, sign kept, zero elsewhere."""
    indices = scores.abs().topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(scores).scatter(1, indices, scores.gather(1, indices))
