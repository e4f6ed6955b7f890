"""What tests of several rooms share: tiny random language models, and real ones where they are."""

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# One thread for every test, in other libraries and in the processes it starts as well: with tiny
# tensors two are slower, far slower on a busy machine, and no outcome may depend on how many cores
# a machine has (the sums of k-means do). Libraries read this when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)

HAS_HOOKED_TRANSFORMER = int(version("transformer-lens").partition(".")[0]) < 4
SHARED = Path(__file__).resolve().parents[2] / "shared"
SHAPE = {
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "d_head": 8,
    "d_mlp": 32,
    "n_ctx": 12,
    "d_vocab": 40,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "seed": 0,
}


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """The path of a shared file or folder; skips the test where it is absent."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs the shared {name}")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def native() -> Callable[..., Any]:
    """Builds a TransformerLens native bridge with every parameter random, biases included."""
    from transformer_lens.model_bridge import TransformerBridge

    return lambda **config: scrambled(TransformerBridge.boot_native(SHAPE | config))


@pytest.fixture(scope="session")
def hooked_transformer() -> Callable[..., Any]:
    """Builds a random `HookedTransformer`; doing so warns that the class is deprecated.

    Skips the test where it is called and TransformerLens has no such class: from 4.0 on.
    """

    def build(**config: Any) -> Any:
        if not HAS_HOOKED_TRANSFORMER:
            pytest.skip("TransformerLens 4 has no HookedTransformer")
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        return scrambled(HookedTransformer(HookedTransformerConfig(**SHAPE | config)))

    return build


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    return torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(0))


def scrambled(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    parameters = list(model.parameters())
    if all(model.unembed.b_U is not parameter for parameter in parameters):
        parameters.append(model.unembed.b_U)  # a buffer from TransformerLens 4.2 on
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)
