"""Sparse decoding and the order of entries by feature, against dense matrices in float64."""

import pytest
import torch

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels.decode import decode
from dictlearn.kernels.entries import by_feature


def problem(dtype=torch.float64):
    """Coefficients and atoms of so few bits that float32 sums their products exactly."""
    make = torch.Generator().manual_seed(0)
    dense = few_bits(6, 9, make).to(dtype)
    dense *= torch.rand(6, 9, generator=make) < 0.4
    dense[2] = 0  # a row with nothing active
    dense[:, 4] = 0  # a feature that is never active
    return SparseActs.from_dense(dense), dense, few_bits(9, 5, make).to(dtype)


def few_bits(n, d, make):
    return torch.randn(n, d, generator=make).mul(256).round().div(256)


@pytest.mark.parametrize("learns", ["values", "atoms", "both"])
def test_decode_and_its_gradients_are_those_of_the_dense_product(learns):
    acts, dense, atoms = problem()
    weights = torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5)
    values = acts.values.clone().requires_grad_(learns != "atoms")
    atoms = atoms.requires_grad_(learns != "values")
    dense = dense.requires_grad_(learns != "atoms")
    estimate = decode(acts.with_values(values), atoms)
    torch.testing.assert_close(estimate, dense @ atoms)
    (estimate * weights).sum().backward()
    from_sparse = values.grad, atoms.grad
    atoms.grad = None
    (dense @ atoms * weights).sum().backward()
    if learns != "atoms":
        torch.testing.assert_close(from_sparse[0], dense.grad[acts.rows(), acts.indices])
    if learns != "values":
        torch.testing.assert_close(from_sparse[1], atoms.grad)


def test_gradcheck():
    acts, _, atoms = problem()
    values = acts.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, a: decode(acts.with_values(v), a), (values, atoms.requires_grad_())
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_entries_in_order_of_their_feature(dtype):
    acts, dense, _ = problem(dtype)
    entries = by_feature(acts)
    rows, features = dense.nonzero(as_tuple=True)
    order = features.argsort(stable=True)
    assert torch.equal(entries.rows, rows[order])
    assert torch.equal(entries.entries, order)
    assert torch.equal(entries.starts.diff(), (dense != 0).sum(dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_and_dots_in_every_path(dtype):
    acts, dense, atoms = problem(dtype)
    x = few_bits(6, 5, torch.Generator().manual_seed(1)).to(dtype)
    of_entries, sums = by_feature(acts).dots_and_weighted_sums(acts.values, x, atoms)
    allowed = 2e-2 if dtype == torch.bfloat16 else 0
    close = {"rtol": allowed, "atol": allowed}
    torch.testing.assert_close(sums, dense.T @ x, **close)
    for found in (of_entries, by_feature(acts).dots(x, atoms)):
        torch.testing.assert_close(found, (x @ atoms.T)[acts.rows(), acts.indices], **close)


def test_dense_coefficients_are_multiplied_as_they_are():
    _, dense, atoms = problem()
    assert torch.equal(decode(dense, atoms), dense @ atoms)
    assert torch.equal(decode(dense[0], atoms), dense[0] @ atoms)
