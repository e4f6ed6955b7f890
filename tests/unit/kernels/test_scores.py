"""Gradients of selected scores against autograd through the whole product, in float64."""

import pytest
import torch

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels.scores import differentiable_scores


def problem(n=6, d=4, n_features=9, density=0.4, seed=0):
    make = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randn(s, generator=make, dtype=torch.float64, requires_grad=True)
               for s in ((n, d), (d, n_features), (n_features,)))  # fmt: skip
    chosen = torch.rand(n, n_features, generator=make) < density
    chosen[2] = False  # a row with nothing selected
    chosen[:, 4] = False  # a feature that nobody selects
    return x, W, b, SparseActs.from_dense(chosen.double())


def found(x, W, b, pattern):
    return pattern.with_values((x @ W + b).detach()[pattern.rows(), pattern.indices])


def test_values_and_gradients_are_those_of_the_dense_product():
    x, W, b, pattern = problem()
    weights = torch.linspace(-1, 1, len(pattern.indices), dtype=torch.float64)
    values = differentiable_scores(x, W, b, found(x, W, b, pattern)).values
    dense = (x @ W + b)[pattern.rows(), pattern.indices]
    torch.testing.assert_close(values, dense)
    sparse = torch.autograd.grad(values @ weights, (x, W, b))
    reference = torch.autograd.grad(dense @ weights, (x, W, b))
    for a, expected in zip(sparse, reference, strict=True):
        torch.testing.assert_close(a, expected)


def test_gradcheck():
    x, W, b, pattern = problem(n=3, d=2, n_features=5, seed=1)

    def scores(x, W, b):
        return differentiable_scores(x, W, b, found(x, W, b, pattern)).values

    assert torch.autograd.gradcheck(scores, (x, W, b))


def test_nothing_selected_gives_zero_gradients():
    x, W, b, _ = problem()
    empty = SparseActs.from_dense(torch.zeros(6, 9, dtype=torch.float64))
    values = differentiable_scores(x, W, b, empty).values
    assert values.shape == (0,)
    for gradient in torch.autograd.grad(values.sum(), (x, W, b)):
        assert not gradient.any()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_what_is_asked_for_is_differentiated(which):
    inputs = list(problem()[:3])
    pattern = problem()[3]
    free = [t if i == which else t.detach() for i, t in enumerate(inputs)]
    x, W, b = free
    differentiable_scores(x, W, b, found(x, W, b, pattern)).values.sum().backward()
    assert [t.grad is not None for t in free] == [i == which for i in range(3)]


def test_a_centre_is_subtracted_from_every_row():
    x, W, b, pattern = problem()
    centre = torch.linspace(-1, 1, 4, dtype=torch.float64).requires_grad_()
    weights = torch.linspace(-1, 1, len(pattern.indices), dtype=torch.float64)
    dense = ((x - centre) @ W + b)[pattern.rows(), pattern.indices]
    known = pattern.with_values(dense.detach())
    values = differentiable_scores(x, W, b, known, centre).values
    inputs = (x, W, b, centre)
    sparse = torch.autograd.grad(values @ weights, inputs)
    reference = torch.autograd.grad(dense @ weights, inputs)
    for a, expected in zip(sparse, reference, strict=True):
        torch.testing.assert_close(a, expected)
