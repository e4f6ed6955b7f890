"""How many inputs share a code."""

from jaxtyping import Int
from torch import Tensor


def purity(codes: Int[Tensor, "input k"]) -> float:
    """The fraction of the codes used by some input that are used by exactly one.

    With several codes an input, the sets of them are counted; give each row in sorted order.
    Tamkin et al. 2024, section 3.

    >>> import torch
    >>> purity(torch.tensor([[3], [5], [5], [7]]))
    0.6666666666666666
    """
    counts = codes.unique(dim=0, return_counts=True)[1]
    return float((counts == 1).double().mean())
