"""Sparse crosscoder: one set of features that read and write several layers.

Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.learning import FitPass
from dictlearn.core.sites import Site, Sites
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.objectives import squared_error
from dictlearn.dictionaries.sae import L1Config


@dataclass(frozen=True)
class LayerwiseL1:
    """Squared error + coefficient * sum of coefficients, weighted by decoder norms.

    The weight of a feature is the sum of its decoder norms over layers, so a decoder concentrated
    in few layers costs less than one of the same total norm spread over many.
    """

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        dictionary, acts = fit_pass.dictionary, fit_pass.acts
        assert isinstance(dictionary, LinearDictionary)
        norms = decoder_norms(dictionary).sum(dim=1)
        if isinstance(acts, SparseActs):
            total = (acts.values * norms[acts.indices]).sum()
        else:
            total = acts.sum(dim=0) @ norms
        scale = self.coefficient * fit_pass.sparsity_scale / len(fit_pass.t)
        return {"squared_error": squared_error(fit_pass), "sparsity": scale * total}


def decoder_norms(dictionary: LinearDictionary) -> Float[Tensor, "feature layer"]:
    """The norm of each feature's decoder at each hook of the target, in standardized units."""
    parts = dictionary.sites.target.split(dictionary.W_dec)
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)


@dataclass(frozen=True, kw_only=True)
class CrosscoderConfig(L1Config):
    """A ReLU autoencoder of several layers, whose L1 penalty sums decoder norms over layers.

    The decoder's bias is subtracted from the input, which in the paper is part of the encoder's
    bias: the functions are equal. Each layer has its own scale, so all have the same weight.
    `l1_coefficient` is the cost of one unit of coefficient times decoder norm.
    """

    kind = "crosscoder"

    def among(self, offered: Sequence[Sites]) -> Sites:
        """All targets offered, as one site that is read and written."""
        every = Site.joined([sites.target for sites in offered])
        return Sites(every, every)

    def objective(self) -> LayerwiseL1:
        """Squared error and the layerwise L1 penalty."""
        return LayerwiseL1(self.l1_coefficient)
