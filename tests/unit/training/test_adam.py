"""Adam in the order of memory: the same steps as torch's loop over parameters."""

import pytest
import torch
from torch import nn

from dictlearn.training.adam import Adam

ORDERS = {
    "rows": lambda t: t,
    "columns": lambda t: t.T.contiguous().T,
    "wide": lambda t: t.repeat(1, 2)[:, : t.shape[1]],  # a part of a larger matrix
}


def in_order(order, seed, dtype=torch.float64):
    make = torch.Generator().manual_seed(seed)
    return ORDERS[order](torch.randn(5, 7, generator=make, dtype=dtype))


@pytest.mark.parametrize("of_parameter", ["rows", "columns"])
@pytest.mark.parametrize("of_gradient", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_are_those_of_torch_whatever_the_order_of_gradients(of_parameter, of_gradient, dtype):
    ours, theirs = (nn.Parameter(in_order(of_parameter, 0, dtype).clone()) for _ in "ab")
    assert ours.is_contiguous() == (of_parameter == "rows")
    optimizers = Adam([ours], lr=0.1, fused=True), torch.optim.Adam([theirs], lr=0.1, foreach=False)
    for step in range(4):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = in_order(of_gradient, 1 + step, dtype)
            optimizer.step()
    assert ours.stride() == theirs.stride()
    torch.testing.assert_close(ours, theirs)
    found, expected = (o.state[p] for o, p in zip(optimizers, (ours, theirs), strict=True))
    assert [*found] == [*expected]
    for key in found:
        torch.testing.assert_close(found[key], expected[key])


def test_parameters_of_all_shapes_and_without_gradient():
    shapes = ((), (9,), (3, 4), (2, 3, 4))
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in "ab")
    optimizers = Adam(ours, lr=0.1, fused=True), torch.optim.Adam(theirs, lr=0.1, foreach=False)
    for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
        for parameter in parameters[1:]:
            parameter.grad = torch.linspace(-1, 1, parameter.numel()).view(parameter.shape)
        optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_torch_is_given_what_is_contiguous(monkeypatch):
    seen = []
    column_major = nn.Parameter(torch.ones(3, 4).T)
    column_major.grad = torch.ones(4, 3)
    optimizer = Adam([column_major], lr=0.1, fused=True)
    fused = torch._fused_adam_

    def noticing(*lists, **settings):
        seen.extend(t.is_contiguous() for tensors in lists[:4] for t in tensors)
        return fused(*lists, **settings)

    monkeypatch.setattr(torch, "_fused_adam_", noticing)
    optimizer.step()
    assert seen == [True] * 4
    assert column_major.shape == (4, 3)
    torch.testing.assert_close(column_major.detach(), torch.full((4, 3), 0.9))
