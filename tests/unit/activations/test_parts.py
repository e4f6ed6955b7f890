"""The rows of a batch, divided between processes."""

import pickle

import pytest
import torch

from dictlearn.activations.live import LiveActivations
from dictlearn.activations.store import ActivationStore, write_store
from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Rows
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

X, Y = torch.randn(100, 4), torch.randn(100, 3)
SITES = Sites(Site("x", 4), Site("y", 3))


def store(folder) -> ActivationStore:
    return write_store(
        folder / "store", [Rows({"x": X, "y": Y})], sites=[SITES], n_rows=100,
        dtype=torch.float32, provenance=Provenance(), tokens={},
    )  # fmt: skip


def live(folder) -> LiveActivations:
    """Ten blocks of ten rows."""

    def read(parts):
        numbers = [(10 * blocks.unsqueeze(1) + torch.arange(10)).flatten() for blocks in parts]
        return [Rows({"x": X[some], "y": Y[some]}) for some in numbers]

    return LiveActivations(read, torch.full((10,), 10), [SITES], Provenance(), pool_blocks=4)


@pytest.mark.parametrize(
    "make",
    [store, live, lambda folder: TensorActivations(X, Y),
     lambda folder: store(folder).select(SITES.at_target())],
    ids=["store", "live", "tensors", "selected"],
)  # fmt: skip
def test_row_i_belongs_to_rank_i_modulo_their_number(make, tmp_path):
    activations = make(tmp_path)
    whole = activations.rows(seed=1, step=2, n=12)
    for rank in range(3):
        part = activations.rows_of(rank, 3, seed=1, step=2, n=12)
        assert part.at.keys() == whole.at.keys()
        for hook, x in whole.at.items():
            assert torch.equal(part.at[hook], x[rank::3])


def test_a_store_is_sent_as_its_folder(tmp_path):
    sent = pickle.dumps(store(tmp_path))
    assert len(sent) < 1000
    assert torch.equal(
        pickle.loads(sent).rows(0, 0, 5).at["x"], store(tmp_path / "again").rows(0, 0, 5).at["x"]
    )
