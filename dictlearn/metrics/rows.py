"""Quantities of single rows, which an evaluation sums over tokens.

Every function reduces over the last axis only, and returns one number for each row. Those that
compare two tensors raise an `InputError` if the shapes differ.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import log_softmax, normalize

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.inputs import paired, precise


def l0(acts: SparseActs) -> Float[Tensor, " n"]:
    """The number of active features in each row; 0 where none is.

    >>> l0(SparseActs.from_dense(torch.tensor([[0.0, 3.0, -1.0], [0.0, 0.0, 0.0]]))).tolist()
    [2.0, 0.0]
    """
    return acts.l0().to(torch.float32)


def l1(acts: SparseActs) -> Float[Tensor, " n"]:
    """The sum of the absolute coefficients in each row, in units of the coefficients.

    >>> l1(SparseActs.from_dense(torch.tensor([[0.0, 3.0, -1.0], [0.0, 0.0, 0.0]]))).tolist()
    [4.0, 0.0]
    """
    return acts.row_sums(precise(acts.values).abs())


def squared_error(
    y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]
) -> Float[Tensor, " n"]:
    """`||y - y_hat||^2` of each row, summed over dimensions, in raw units squared.

    Lower is better; 0 for a perfect estimate, unbounded above.

    >>> squared_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).tolist()
    [5.0]
    """
    y, y_hat = paired(y, y_hat)
    return (y - y_hat).square().sum(dim=1)


def squared_norm(y: Float[Tensor, "n d_out"]) -> Float[Tensor, " n"]:
    """`||y||^2` of each row, summed over dimensions, in raw units squared.

    >>> squared_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [25.0, 0.0]
    """
    return precise(y).square().sum(dim=1)


def cosine_similarity(
    y: Float[Tensor, "n d_out"], y_hat: Float[Tensor, "n d_out"]
) -> Float[Tensor, " n"]:
    """`<y, y_hat> / (||y|| ||y_hat||)` of each row: the agreement in direction.

    In [-1, 1], higher is better; 0 where either row is zero, as it has no direction.

    >>> y = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    >>> cosine_similarity(y, torch.tensor([[2.0, 0.0], [0.0, -3.0], [0.0, 0.0]])).tolist()
    [1.0, 0.0, 0.0]
    """
    y, y_hat = paired(y, y_hat)
    tiny = torch.finfo(y.dtype).tiny
    return (normalize(y, dim=1, eps=tiny) * normalize(y_hat, dim=1, eps=tiny)).sum(dim=1)


def cross_entropy(
    logits: Float[Tensor, "n vocab"], targets: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The negative log-probability of each row's target token, in nats.

    `-log softmax(logits)[target]`. Lower is better; at least 0, and log(vocab) for uniform
    logits.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).exp().tolist()
    [2.0]
    """
    return torch_cross_entropy(precise(logits), targets, reduction="none")


def kl_divergence(
    logits: Float[Tensor, "n vocab"], logits_hat: Float[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    """`KL(clean || spliced)` of each row's next-token distribution, in nats.

    `sum_v p(v) (log p(v) - log p_hat(v))` with `p = softmax(logits)` of the clean model, exact
    over the whole vocabulary. Lower is better; exactly 0 for equal logits, unbounded above. A
    token of clean probability 0 contributes nothing.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> kl_divergence(logits, logits).tolist()
    [0.0]
    """
    logits, logits_hat = paired(logits, logits_hat)
    log_p = log_softmax(logits, dim=1)
    log_p_hat = log_softmax(logits_hat, dim=1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_p_hat), 0.0).sum(dim=1)


def top1_agreement(
    logits: Float[Tensor, "n vocab"], logits_hat: Float[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    """1.0 where both rows of logits rank the same token first, 0.0 elsewhere.

    >>> logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    >>> top1_agreement(logits, torch.tensor([[2.0, 3.0], [3.0, 2.0]])).tolist()
    [1.0, 0.0]
    """
    logits, logits_hat = paired(logits, logits_hat)
    return (logits.argmax(dim=1) == logits_hat.argmax(dim=1)).to(torch.float32)
