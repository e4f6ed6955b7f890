"""SparseActs: nothing but the dense tensor without its zeros."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dictlearn.core.sparse_acts import SparseActs

DENSE = torch.tensor([[0.0, 3.0, -1.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
SHAPES = [(0, 3), (3, 0), (0, 0), (1, 1), (4, 5)]


def test_known_entries():
    acts = SparseActs.from_dense(DENSE)
    assert acts.offsets.tolist() == [0, 2, 2, 3]
    assert acts.indices.tolist() == [1, 2, 0]
    assert acts.values.tolist() == [3.0, -1.0, 2.0]
    assert (len(acts), acts.n_features) == (3, 3)


def test_sums_and_counts():
    acts = SparseActs.from_dense(DENSE)
    assert acts.l0().tolist() == [2, 0, 1]
    assert acts.rows().tolist() == [0, 0, 2]
    assert acts.row_sums(acts.values).tolist() == [2.0, 0.0, 2.0]
    assert acts.row_sums(acts.values.abs()).tolist() == [4.0, 0.0, 2.0]
    assert acts.firing_counts().tolist() == [1, 1, 1]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -2.5]), min_size=4, max_size=4), min_size=1, max_size=6
    )
)
def test_dense_and_sparse_agree(rows):
    dense, atoms = torch.tensor(rows), torch.arange(8.0).view(4, 2)
    acts = SparseActs.from_dense(dense)
    assert torch.equal(acts.to_dense(), dense)
    assert torch.allclose(acts.matmul(atoms), dense @ atoms)
    assert torch.equal(acts.l0(), (dense != 0).sum(dim=1))
    assert torch.equal(acts.firing_counts(), (dense != 0).sum(dim=0))


@pytest.mark.parametrize("shape", SHAPES)
def test_empty_and_zero_rows(shape):
    dense, atoms = torch.zeros(shape), torch.ones(shape[1], 2)
    acts = SparseActs.from_dense(dense)
    assert acts.values.numel() == 0
    assert torch.equal(acts.to_dense(), dense)
    assert torch.equal(acts.matmul(atoms), torch.zeros(shape[0], 2))
    assert torch.equal(acts.row_sums(acts.values), torch.zeros(shape[0]))
    assert torch.equal(acts.firing_counts(), torch.zeros(shape[1], dtype=torch.long))


def test_from_top_drops_zeros():
    values, indices = (
        torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 5.0]]),
        torch.tensor([[3, 1], [0, 2], [2, 0]]),
    )
    acts = SparseActs.from_top(values, indices, n_features=4)
    expected = torch.zeros(3, 4)
    expected[0, 3], expected[2, 2], expected[2, 0] = 2.0, 1.0, 5.0
    assert torch.equal(acts.to_dense(), expected)
    assert acts.l0().tolist() == [1, 0, 2]


def test_matmul_differentiates_in_values_and_atoms():
    acts = SparseActs.from_dense(DENSE.double())
    values = acts.values.clone().requires_grad_(True)
    atoms = torch.randn(
        3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_(True)

    def product(values, atoms):
        return SparseActs(acts.offsets, acts.indices, values, acts.n_features).matmul(atoms)

    assert torch.autograd.gradcheck(product, (values, atoms))


def test_gradients_reach_the_dense_tensor():
    dense = DENSE.clone().requires_grad_(True)
    atoms = torch.arange(6.0).view(3, 2)
    SparseActs.from_dense(dense).matmul(atoms).sum().backward()
    assert torch.equal(dense.grad, (DENSE != 0) * atoms.sum(dim=1))


def test_rows_columns_and_differences():
    dense = torch.tensor([[0.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    acts = SparseActs.from_dense(dense)
    rows = torch.tensor([2, 0, 0, 1])
    assert torch.equal(acts.select(rows).to_dense(), dense[rows])
    assert acts.select(rows[:0]).to_dense().shape == (0, 4)
    some = torch.tensor([3, 0])
    assert torch.equal(acts.columns(some), dense[:, some])
    new = torch.tensor([[5.0, 0.0], [0.0, 4.0], [1.0, 0.0]])
    changed = dense.clone()
    changed[:, some] = new
    edited = acts.with_columns(some, new)
    assert torch.equal(edited.to_dense(), changed)
    assert torch.equal(edited.minus(acts).to_dense(), changed - dense)
    assert len(edited.minus(edited).values) == 0, "equal coefficients leave no entry"
    twice = SparseActs.from_entries(
        torch.tensor([1, 0, 1]), torch.tensor([2, 0, 2]), torch.tensor([1.0, 2.0, 3.0]), 2, 4
    )
    assert twice.to_dense().tolist() == [[2, 0, 0, 0], [0, 0, 4, 0]]


def test_gradients_of_edited_coefficients():
    values = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    acts = SparseActs.from_counts(torch.tensor([2, 1]), torch.tensor([1, 3, 0]), values, 4)
    new = torch.tensor([[7.0], [8.0]], dtype=torch.float64, requires_grad=True)

    def f(values, new):
        given = acts.with_values(values).with_columns(torch.tensor([3]), new)
        return given.select(torch.tensor([1, 0])).minus(acts.with_values(values)).to_dense()

    assert torch.autograd.gradcheck(f, (values, new))
