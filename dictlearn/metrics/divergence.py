"""The divergence of two distributions over tokens."""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor


def jensen_shannon_divergence(
    log_p: Float[Tensor, "*b token"], log_q: Float[Tensor, "*b token"]
) -> Float[Tensor, "*b"]:
    """The mean KL divergence of two distributions from their mean, in nats, from log-probabilities.

    `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2` (Lin 1991, "Divergence Measures Based on
    the Shannon Entropy"): symmetric, from 0 for equal ones to log 2 for ones that share no token.

    >>> p = torch.tensor([1.0, 0.0]).log()
    >>> round(jensen_shannon_divergence(p, p.flip(0)).item(), 4)
    0.6931
    """
    log_m = torch.logaddexp(log_p, log_q) - log(2)

    def divergence(log_x: Tensor) -> Tensor:
        p = log_x.exp()
        return torch.where(p > 0, p * (log_x - log_m), 0.0).sum(dim=-1)

    return (divergence(log_p) + divergence(log_q)) / 2
