"""Massive activations: a few rows whose norm is many times that of the others.

Some tokens have them in most language models (Sun et al. 2024, "Massive Activations in Large
Language Models"). Where they hold most of the variance, any number that averages squares speaks
of them alone.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.sites import Site

RATIO = 10.0
"""A row is massive if its norm is over this many times the median norm."""
MUCH = 0.1
"""The share of the variance from which on massive rows are worth a word."""
_FEWEST_ROWS = 16
"""Fewer rows have no median to rely on, and none of them is massive."""


def norm_limit(x: Float[Tensor, "n d"], ratio: float = RATIO) -> float:
    """`ratio` times the median norm of the rows that are not zero; infinite for under 16 of these.

    >>> x = torch.ones(20, 4)
    >>> norm_limit(x)
    20.0
    """
    return _limit(norms_of(x), ratio)


def _limit(norms: Float[Tensor, " n"], ratio: float) -> float:
    norms = norms[norms > 0]
    return ratio * float(norms.median()) if len(norms) >= _FEWEST_ROWS else math.inf


def beyond(x: Float[Tensor, "n d"], limit: float) -> Bool[Tensor, " n"]:
    """The rows whose norm is over `limit`."""
    return norms_of(x) > limit


def massive(x: Float[Tensor, "n d"], site: Site) -> Bool[Tensor, " n"]:
    """The rows whose norm at a hook of `site` is over `RATIO` times the median there."""
    norms = map(norms_of, site.split(x))
    return torch.stack([some > _limit(some, RATIO) for some in norms]).any(dim=0)


def massive_rows(
    x: Float[Tensor, "n d"], sequences: Int[Tensor, " n"], site: Site
) -> Bool[Tensor, " n"]:
    """The rows whose norm at a hook of `site` is over `RATIO` times the median of their sequence.

    The rows of a sequence follow one another. Nothing else decides, so the answer does not depend
    on how sequences are batched.
    """
    parts = x.split(torch.unique_consecutive(sequences, return_counts=True)[1].tolist())
    return torch.cat([x.new_empty(0, dtype=torch.bool), *(massive(p, site) for p in parts)])


def norms_of(x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The norm of each row."""
    return torch.linalg.vector_norm(x, dim=1)
