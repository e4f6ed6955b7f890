import re

import pytest
import torch

from dictlearn.activations.live import LiveActivations
from dictlearn.core.batches import Rows
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

SITES = (Sites(Site("x", 2), Site("y", 1)),)
SIZES = torch.tensor([3, 0, 5, 4, 1, 2, 6, 3, 4, 2, 5])
N_ROWS = int(SIZES.sum())


class Reader:
    """Row r of block b is (b, r) at x, and their sum at y; remembers the blocks it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, blocks: torch.Tensor) -> Rows:
        self.calls.append(blocks.tolist())
        pairs = [(float(b), float(r)) for b in blocks.tolist() for r in range(int(SIZES[b]))]
        x = torch.tensor(pairs).reshape(-1, 2)
        return Rows({"x": x, "y": x.sum(dim=1, keepdim=True)})


def each(read):
    return lambda parts: [read(blocks) for blocks in parts]


def live(read=None, pool_blocks=4, read_blocks=3) -> LiveActivations:
    return LiveActivations(
        each(read or Reader()), SIZES, SITES, Provenance(model="toy"),
        pool_blocks=pool_blocks, read_blocks=read_blocks,
    )  # fmt: skip


def everything() -> torch.Tensor:
    return Reader()(torch.arange(len(SIZES))).at["x"]


def test_an_epoch_visits_every_row_once_and_rows_stay_aligned():
    for epoch in range(3):
        rows = live().rows(seed=0, step=epoch, n=N_ROWS)
        assert torch.equal(rows.at["x"].unique(dim=0), everything())
        assert torch.equal(rows.at["y"], rows.at["x"].sum(dim=1, keepdim=True))


def test_what_is_offered():
    activations = live()
    assert activations.sites == SITES
    assert activations.n_rows == N_ROWS
    assert activations.provenance.model == "toy"


@pytest.mark.parametrize("n", [1, 7, N_ROWS, 2 * N_ROWS + 3])
def test_order_of_access_and_freshness_change_nothing(n):
    activations = live()
    sequential = [activations.rows(0, step, n).at["x"] for step in range(12)]
    shuffled = live()
    for step in [7, 0, 11, 3, 3, 8, 1, 10, 2, 9, 4, 6, 5]:
        assert torch.equal(shuffled.rows(0, step, n).at["x"], sequential[step])
        assert torch.equal(live().rows(0, step, n).at["x"], sequential[step])


def test_seeds_may_be_interleaved():
    activations = live()
    for step in range(4):
        for seed in (0, 1):
            expected = live().rows(seed, step, 6).at["x"]
            assert torch.equal(activations.rows(seed, step, 6).at["x"], expected)


def test_batches_cut_one_walk():
    whole = live().rows(5, 0, 60).at["x"]
    pieces = [live().rows(5, step, 4).at["x"] for step in range(15)]
    assert torch.equal(torch.cat(pieces), whole)


def test_seeds_and_epochs_differ():
    epochs = [live().rows(seed, step, N_ROWS).at["x"] for seed in (0, 1) for step in (0, 1)]
    flat = {tuple(x.flatten().tolist()) for x in epochs}
    assert len(flat) == 4


def test_rows_are_shuffled_within_a_pool_and_pools_within_an_epoch():
    first_pool = live().rows(0, 0, 8).at["x"]
    blocks = first_pool[:, 0].tolist()
    assert blocks != sorted(blocks)
    assert len(set(blocks)) <= 4


def test_pools_of_equal_size_are_shuffled_differently():
    sizes = torch.full((8,), 6)

    def read(blocks: torch.Tensor) -> Rows:
        x = torch.arange(6.0).repeat(len(blocks)).reshape(-1, 1)
        return Rows({"x": x})

    site = Site("x", 1)
    activations = LiveActivations(
        each(read), sizes, [Sites(site, site)], Provenance(), pool_blocks=1
    )
    orders = activations.rows(0, 0, 2 * 48).at["x"].reshape(16, 6)
    assert len({tuple(order.tolist()) for order in orders}) > 12


def test_sequential_access_reads_each_block_once_an_epoch():
    reader = Reader()
    activations = live(reader)
    for step in range(N_ROWS // 5):
        activations.rows(0, step, 5)
    read = [block for call in reader.calls for block in call]
    assert sorted(read) == list(range(len(SIZES)))
    assert [len(call) for call in reader.calls] == [3, 1, 3, 1, 3]


def test_only_two_pools_are_kept():
    reader = Reader()
    activations = live(reader)
    activations.rows(0, 0, N_ROWS)
    n_calls = len(reader.calls)
    activations.rows(0, N_ROWS - 1, 1)
    assert len(reader.calls) == n_calls
    activations.rows(0, 0, 1)
    assert len(reader.calls) > n_calls


def test_locate_names_block_and_row():
    activations = live()
    x = activations.rows(3, 2, 9).at["x"]
    for row, (block, row_of_block) in enumerate(x.long().tolist()):
        assert activations.locate(3, 2, 9, row) == f"block {block}, row {row_of_block}"


def test_a_value_that_is_not_finite_is_named():
    def broken(blocks: torch.Tensor) -> Rows:
        rows = Reader()(blocks)
        rows.at["y"][(rows.at["x"] == torch.tensor([6.0, 2.0])).all(dim=1)] = torch.inf
        return rows

    with pytest.raises(NonFiniteError, match=r"block 6, hook 'y': .* row 2"):
        live(broken).rows(0, 0, N_ROWS)


def test_a_reader_that_disagrees_about_rows_is_named():
    def short(blocks: torch.Tensor) -> Rows:
        return Rows({hook: x[1:] for hook, x in Reader()(blocks).at.items()})

    with pytest.raises(InputError, match=r"from blocks \[.*\], read \d+; rows_per_block"):
        live(short).rows(0, 0, N_ROWS)
    with pytest.raises(InputError, match=re.escape("got none at y")):
        live(lambda blocks: Rows({"x": Reader()(blocks).at["x"]})).rows(0, 0, 1)


@pytest.mark.parametrize(
    ("sizes", "pool_blocks", "read_blocks"),
    [(torch.zeros(3).long(), 1, 1), (SIZES, 0, 1), (SIZES, 1, 0)],
)
def test_sizes_below_one_are_refused(sizes, pool_blocks, read_blocks):
    with pytest.raises(InputError, match="required at least 1 row"):
        LiveActivations(
            each(Reader()),
            sizes,
            SITES,
            Provenance(),
            pool_blocks=pool_blocks,
            read_blocks=read_blocks,
        )
