"""Gated sparse autoencoder: separate gates and magnitudes.

Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
section 3.2.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dictlearn.core.learning import FitPass
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.dictionaries.elementwise import ElementwiseRule, Features
from dictlearn.dictionaries.linear import LinearDictionary
from dictlearn.dictionaries.objectives import entries, squared_error
from dictlearn.dictionaries.sae import L1Config
from dictlearn.kernels.decode import decode


@dataclass(frozen=True)
class Gated(ElementwiseRule):
    """`acts = (gate > 0) * relu(magnitude)`, the two sharing `W_enc` up to a scale per feature.

    The gate is the score; `magnitude = exp(r_mag) * (gate - b_enc) + b_mag`.
    """

    feature_axes: ClassVar = {"r_mag": 0, "b_mag": 0}

    def tensors(self, n_features: int) -> dict[str, Tensor]:
        """The logarithm of each magnitude's scale, and its bias."""
        return {name: nn.Parameter(torch.zeros(n_features)) for name in ("r_mag", "b_mag")}

    def entries(
        self, dictionary: LinearDictionary, scores: Float[Tensor, "*n"], features: Features
    ) -> Float[Tensor, "*n"]:
        """The magnitudes of features whose gate is open."""
        scale = dictionary.get_parameter("r_mag").exp()
        offset = dictionary.get_parameter("b_mag") - scale * dictionary.b_enc
        magnitudes = torch.addcmul(offset[features], scores, scale[features])
        return magnitudes.masked_fill_(scores <= 0, 0.0).relu_()


@dataclass(frozen=True)
class GatedLoss:
    """Squared error + L1 on the open gates + squared error of the gates' own estimate.

    The last term trains the gate through a frozen copy of the decoder.
    """

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        dictionary = fit_pass.dictionary
        assert isinstance(dictionary, LinearDictionary)
        assert fit_pass.pre is not None
        pre = fit_pass.pre
        opened = pre if isinstance(pre, SparseActs) else pre.relu()  # entries are of open gates
        total = dictionary.feature_group.all_reduce_forward
        estimate = total(decode(opened, dictionary.W_dec.detach())) + dictionary.b_dec.detach()
        scale = self.coefficient * fit_pass.sparsity_scale
        return {
            "squared_error": squared_error(fit_pass),
            "sparsity": scale * total(entries(opened).sum()) / len(fit_pass.t),
            "gate_error": (fit_pass.t - estimate).pow(2).mean(),
        }


@dataclass(frozen=True, kw_only=True)
class GatedSAEConfig(L1Config):
    """An autoencoder whose L1 penalty acts on the gates only, so that magnitudes are not shrunk.

    `l1_coefficient` is the cost of one unit of gate.
    """

    kind = "gated_sae"
    shards_features = True

    def rule(self) -> Gated:
        """Gated magnitudes."""
        return Gated()

    def objective(self) -> GatedLoss:
        """Squared error, L1 on the gates, and the gates' own estimate."""
        return GatedLoss(self.l1_coefficient)
