"""The affine functions of activations that stand for coefficients where everything else is held."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from dictlearn.core.dictionary import FeatureDictionary

_ENTRIES = 1 << 24
"""Largest number of coefficients that are computed at once."""


@dataclass(frozen=True)
class Reading:
    """One affine function for each row: `x -> readers[i] . x + offsets[i]`."""

    readers: Float[Tensor, "n d_in"]
    offsets: Float[Tensor, " n"]

    def __call__(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, " n"]:
        """The value of each row's function at its row of `x`."""
        return (self.readers * x).sum(dim=1) + self.offsets


def tangents(
    dictionary: "FeatureDictionary", x: Float[Tensor, "n d_in"], features: Int[Tensor, " n"]
) -> Reading:
    """The tangent at `x[i]` of the coefficient, or score, of `features[i]`; see `reading`."""
    readers, offsets = torch.empty_like(x), x.new_empty(len(x))
    size = max(1, _ENTRIES // max(dictionary.n_features, 1))
    for part in torch.arange(len(x), device=x.device).split(size):
        rows = x[part].detach().requires_grad_()
        with torch.enable_grad():
            values = _values(dictionary, rows, features[part])
            total = values.sum()
        readers[part] = torch.autograd.grad(total, rows)[0] if total.requires_grad else 0.0
        offsets[part] = values.detach().to(x) - (readers[part] * x[part]).sum(dim=1)
    return Reading(readers, offsets)


def _values(
    dictionary: "FeatureDictionary", x: Float[Tensor, "n d_in"], features: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The coefficient of each row's feature, or its score where coefficients are 0 or 1."""
    if dictionary.traits.binary:
        some, place = features.unique(return_inverse=True)
        return dictionary.scores(x, some).gather(1, place.unsqueeze(1))[:, 0]
    acts = dictionary.encode_sparse(x)
    own = acts.indices == features[acts.rows()]
    return acts.values.new_zeros(len(x)).index_add(0, acts.rows()[own], acts.values[own])
