"""Batch top-k on sparse combinations of known directions."""

import pytest
import torch
from torch.nn.functional import normalize

from dictlearn.dictionaries.batchtopk_sae import BatchTopKSAEConfig
from dictlearn.dictionaries.matryoshka_sae import MatryoshkaSAEConfig
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit

pytestmark = pytest.mark.untyped  # long, and of types that other tests pass

K, N_ATOMS, D = 5, 128, 64
KINDS = {"batchtopk": BatchTopKSAEConfig, "matryoshka": MatryoshkaSAEConfig}


def planted(n: int, seed: int) -> torch.Tensor:
    """Rows that add five of 128 directions in 64 dimensions, with half-normal coefficients."""
    g = torch.Generator().manual_seed(0)
    atoms = normalize(torch.randn(N_ATOMS, D, generator=g), dim=1)
    g.manual_seed(seed)
    chosen = torch.rand(n, N_ATOMS, generator=g).topk(K, dim=1).indices
    sizes = torch.randn(n, K, generator=g).abs()
    return torch.zeros(n, N_ATOMS).scatter(1, chosen, sizes) @ atoms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_rows_have_k_active_features_and_few_are_dead(kind, seed):
    """The threshold is that of the final weights, though it falls by a third while they learn."""
    run = FitConfig(steps=1200, batch_size=256, seed=seed)
    sae = fit(KINDS[kind](n_features=N_ATOMS, k=K), planted(300_000, 1), run, progress=False)
    active = sae.encode(planted(20_000, 2)) > 0
    assert abs(float(active.sum(dim=1).float().mean()) - K) < 0.01 * K
    assert float((~active.any(dim=0)).float().mean()) < 0.05
