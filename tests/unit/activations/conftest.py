from pathlib import Path

import pytest
import torch

from dictlearn.activations import store as store_module
from dictlearn.core.batches import Rows
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of 16 rows, where the widths sum to 7 and rows are float32."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 16 * 7 * 4)


@pytest.fixture
def stored(tmp_path) -> Path:
    """The folder of a finished store: 100 rows in 7 shards, and MLP weights."""
    mlp = MLPWeights(
        W_in=torch.ones(4, 6), b_in=torch.ones(6), W_out=torch.ones(6, 3), b_out=torch.ones(3),
        act_name="relu",
    )  # fmt: skip
    store_module.write_store(
        tmp_path,
        [Rows({"x": torch.ones(100, 4), "y": torch.ones(100, 3)})],
        sites=[Sites(Site("x", 4), Site("y", 3))],
        mlps={Sites(Site("x", 4), Site("y", 3)): mlp},
        n_rows=100,
        dtype=torch.float32,
        provenance=Provenance(),
        tokens={},
    )
    return tmp_path
