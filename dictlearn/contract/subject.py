"""A dictionary under test, the rows it is tested on, and how a check fails."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ContractError
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Site, Sites
from dictlearn.training.config import FitConfig

FIT = FitConfig(steps=150, batch_size=256, learning_rate=1e-2, standardize_rows=1024, dead_after=30)
"""Settings of the short training of a config."""
_N_ROWS = 2048


@dataclass(frozen=True)
class Subject:
    """A dictionary under test, with rows it can read and, where it was made here, its config."""

    dictionary: FeatureDictionary
    x: Float[Tensor, "n d_in"]
    config: DictionaryConfig | None = None


def require(holds: bool, message: str) -> None:
    """Raise a `ContractError` with this message unless something holds."""
    if not holds:
        raise ContractError(message)


def close(a: Tensor, b: Tensor, what: str) -> None:
    """Raise a `ContractError` about `what` unless both are equal to rounding of larger entries."""
    require(a.shape == b.shape, f"{what}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-4
    scale = 1 + float(b.detach().abs().max()) if b.numel() else 1.0
    worst = float((a - b).detach().abs().max()) if a.numel() else 0.0
    require(worst <= tolerance * scale, f"{what}: differ by up to {worst:.3g}")


def synthetic(seed: int) -> TensorActivations:
    """Rows of a small ReLU MLP: input 12 wide, output 8 wide, both off-centre and scaled."""
    weights = torch.Generator().manual_seed(99)
    mlp = MLPWeights(
        W_in=torch.randn(12, 24, generator=weights),
        b_in=torch.randn(24, generator=weights) - 2.0,
        W_out=torch.randn(24, 8, generator=weights),
        b_out=torch.randn(8, generator=weights),
        act_name="relu",
    )
    rows = torch.Generator().manual_seed(seed)
    x = torch.randn(_N_ROWS, 12, generator=rows)
    y = mlp.hidden(x) @ mlp.W_out + mlp.b_out
    return TensorActivations(x, y, sites=Sites(Site("x", 12), Site("y", 8)), mlp=mlp)
