"""A model and transcoders in which no constant is 0."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.lm.mlps import mlp_sites
from tests.unit.circuits.conftest import standardized


@pytest.fixture(scope="session")
def biased(native: Callable[..., Any]) -> Any:
    """A native model with LayerNorm, all of whose parameters are random."""
    model = native().double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def transcoders(biased: Any, prompt: torch.Tensor) -> dict[str, FeatureDictionary]:
    """A transcoder with a linear skip at the first MLP, a top-k transcoder at the second."""
    made = {
        "mlp0": TranscoderConfig(n_features=8, linear_skip=True).build(mlp_sites(biased, 0)),
        "mlp1": TopKTranscoderConfig(n_features=16, k=3).build(mlp_sites(biased, 1)),
    }
    generator = torch.Generator().manual_seed(2)
    for dictionary in made.values():
        for parameter in dictionary.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return {name: standardized(d, biased, prompt) for name, d in made.items()}
