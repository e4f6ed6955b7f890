"""Gated sparse autoencoder: which features fire is decided apart from how strongly.

Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders",
section 3.2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dictlearn.core.config import GradientConfig
from dictlearn.core.dictionary import Traits
from dictlearn.core.learning import Encoding, FitPass
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.linear import LINEAR_AXES, LinearAutoencoder
from dictlearn.dictionaries.objectives import squared_error


class GatedSAE(LinearAutoencoder):
    """`acts = (gate > 0) * relu(magnitude)`, the two sharing `W_enc` up to a scale per feature.

    `gate = (z - b_dec) @ W_enc + b_enc`; `magnitude = exp(r_mag) * (gate - b_enc) + b_mag`.
    """

    traits = Traits(nonnegative=True)
    feature_axes = LINEAR_AXES | {"r_mag": 0, "b_mag": 0}

    def __init__(self, sites: Sites, n_features: int, *, seed: int) -> None:
        super().__init__(sites, n_features, seed=seed)
        self.r_mag = nn.Parameter(torch.zeros(n_features))
        self.b_mag = nn.Parameter(torch.zeros(n_features))

    def _opened(self, gate: Float[Tensor, "n feature"]) -> Float[Tensor, "n feature"]:
        magnitude = self.r_mag.exp() * (gate - self.b_enc) + self.b_mag
        return (gate > 0) * magnitude.relu()

    def _encode(self, z: Float[Tensor, "n d_in"]) -> Float[Tensor, "n feature"]:
        return self._opened(self._pre(z))

    def _train_encode(self, z: Float[Tensor, "n d_in"]) -> Encoding:
        gate = self._pre(z)
        return Encoding(self._opened(gate), gate)


@dataclass(frozen=True)
class GatedLoss:
    """Squared error + L1 on the open gates + squared error of the gates' own estimate.

    The last term trains the gate through a frozen copy of the decoder.
    """

    coefficient: float

    def __call__(self, fit_pass: FitPass) -> dict[str, Tensor]:
        """The loss terms of one pass."""
        dictionary = fit_pass.dictionary
        assert isinstance(dictionary, GatedSAE)
        assert fit_pass.pre is not None
        opened = fit_pass.pre.relu()
        total = dictionary.shards.total
        estimate = total(opened @ dictionary.W_dec.detach()) + dictionary.b_dec.detach()
        scale = self.coefficient * fit_pass.sparsity_scale
        return {
            "squared_error": squared_error(fit_pass),
            "sparsity": scale * total(opened.sum(dim=1).mean()),
            "gate_error": (fit_pass.t - estimate).pow(2).mean(),
        }


@dataclass(frozen=True, kw_only=True)
class GatedSAEConfig(GradientConfig[GatedSAE]):
    """An autoencoder whose L1 penalty acts on the gates only, so that it shrinks nothing."""

    kind = "gated_sae"
    n_features: int
    """Number of features."""
    l1_coefficient: float = 5e-3
    """Price of one unit of gate, in standardized units; larger is sparser."""

    def __post_init__(self) -> None:
        self._require_count("n_features")
        self._require_not_negative("l1_coefficient")

    def _build(self, sites: Sites, seed: int) -> GatedSAE:
        """A fresh autoencoder at `sites`."""
        return GatedSAE(sites, self.n_features, seed=seed)

    def objective(self) -> GatedLoss:
        """Squared error, L1 on the gates, and the gates' own estimate."""
        return GatedLoss(self.l1_coefficient)

    @classmethod
    def tiny(cls) -> "GatedSAEConfig":
        """The smallest useful instance."""
        return cls(n_features=32, l1_coefficient=1e-3)
