"""Random tokens, the second MLP of a small model, and its output; tests give the `model`."""

from collections.abc import Callable

import pytest
import torch

from dictlearn.core.tokens import Tokens
from dictlearn.lm.forward import activations_at
from dictlearn.lm.mlps import mlp_sites
from dictlearn.metrics.bits import level_code


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (9, 12), generator=torch.Generator().manual_seed(1))
    return Tokens(ids, torch.ones_like(ids).bool(), source="random", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def sites(model):
    return mlp_sites(model, 1)


@pytest.fixture(scope="module")
def rows(model, tokens, sites):
    return activations_at(model, tokens.ids, [sites.target.hook])[sites.target.hook].flatten(0, 1)


@pytest.fixture
def level_bits() -> Callable:
    """L0 H(levels): the bits per row of the levels of some coefficients, as a function."""

    def of(quantized, acts):
        _, counts = quantized.levels(acts).unique(return_counts=True)
        return (counts * level_code(counts)).sum().item() / len(acts)

    return of
