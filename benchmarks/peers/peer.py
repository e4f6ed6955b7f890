"""The interface of a library in the benchmark: dictionaries trained one full step per call."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from dictlearn.core.batches import Batch


class Kind(Enum):
    """The kind of dictionary. The value is its name in tables."""

    TOPK_SAE = "top-k SAE"
    BATCHTOPK_SAE = "batch top-k SAE"
    RELU_SAE = "ReLU-L1 SAE"
    JUMPRELU_SAE = "JumpReLU SAE"
    GATED_SAE = "gated SAE"
    TOPK_TRANSCODER = "top-k transcoder"
    RELU_TRANSCODER = "ReLU-L1 transcoder"
    JUMPRELU_TRANSCODER = "JumpReLU transcoder with skip"
    CODEBOOK = "codebook, k codes"
    ONE_CODE = "codebook, one code"
    RESIDUAL_CODEBOOK = "residual codebook, k stages"


@dataclass(frozen=True)
class Plan:
    """One dictionary and its run, in terms that every library has."""

    width: int
    n_features: int
    """Features, or codes (of each stage)."""
    k: int
    """Active features in a row; for kinds that do not fix it, the number that the bias starts
    with."""
    steps: int = 100_000
    learning_rate: float = 1e-9
    """So small by default that the dictionary stays as it is, and every step costs the same."""
    seed: int = 0
    warmup: float = 0.05
    """Part of the steps in which the learning rate rises from 0."""
    decay: float = 0.2
    """Part of the steps, at the end, in which it falls to 0."""


@dataclass(frozen=True)
class Trainee:
    """A dictionary in training."""

    update: Callable[[Batch], object]
    """One full step as its library takes it: forward, all its losses, backward, clipping,
    constraints, optimizer, and the bookkeeping of its trainer."""
    estimate: Callable[[Tensor], Tensor]
    """The estimate for rows, in their own units."""
    held: Callable[[], Iterable[Tensor]]
    """Parameters, buffers and optimizer state: what memory is needed between two steps."""


Maker = Callable[[Plan, Batch], Trainee]
"""Makes a dictionary that starts from a plan and a first batch."""


@dataclass(frozen=True)
class Peer:
    """A library, or one of its documented options, as one contender."""

    name: str
    distribution: str
    """Its name on the package index."""
    makers: Mapping[Kind, Maker]
    is_option: bool = False
    """Whether this is another contender with an option that is not its library's default."""


def held_by(module: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """The parameters and buffers of a module, and the state of its optimizer."""
    tensors = [*module.parameters(), *module.buffers()]
    for state in optimizer.state.values() if optimizer else ():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return tensors


@torch.no_grad()
def aim_at_l0_(bias: Tensor, scores: Tensor, l0: int) -> None:
    """Lower the bias of `scores`, less their thresholds, until about `l0` of a row are positive."""
    rank = int(scores.numel() * (1 - l0 / scores.shape[1]))
    bias -= scores.flatten().kthvalue(rank).values
