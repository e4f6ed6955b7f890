"""ReLU coefficients and their estimate, against autograd on dense products in float64."""

import pytest
import torch

from dictlearn.kernels import relu
from dictlearn.kernels.relu import relu_estimate


def problem(n=7, d_in=4, n_features=9, d_out=3, dtype=torch.float64, requires_grad=True):
    """Rows, an encoder kept one feature after the other, biases, a centre and atoms."""
    make = torch.Generator().manual_seed(0)
    shapes = ((n, d_in), (n_features, d_in), (n_features,), (d_in,), (n_features, d_out))
    x, features, b, centre, atoms = (torch.randn(*s, generator=make).to(dtype) for s in shapes)
    return [t.detach().requires_grad_(requires_grad) for t in (x, features.T, b, centre, atoms)]


def plain(x, W, b, centre, atoms):
    shifted = x if centre is None else x - centre
    acts = (shifted @ W + b).relu()
    return acts, acts @ atoms


LOSSES = {
    "both": lambda acts, estimate: (estimate - 1).square().mean() + 0.3 * acts.sum(),
    "estimate": lambda acts, estimate: (estimate - 1).square().mean(),
    "coefficients": lambda acts, estimate: 0.3 * (acts * acts.detach().cos()).sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
@pytest.mark.parametrize("centred", [True, False])
def test_values_and_gradients_are_those_of_dense_products(loss, rows_at_once, centred, monkeypatch):
    monkeypatch.setattr(relu, "_TILE", rows_at_once * 9)
    inputs = problem()
    if not centred:
        inputs[3] = None
    learned = [t for t in inputs if t is not None]
    found = []
    for way in (relu_estimate, plain):
        acts, estimate = way(*inputs)
        gradients = torch.autograd.grad(
            LOSSES[loss](acts, estimate), learned, allow_unused=True, materialize_grads=True
        )
        found.append((acts, estimate, *gradients))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    assert torch.autograd.gradcheck(relu_estimate, problem(n=3, n_features=5))


def test_the_gradient_of_the_encoder_is_laid_out_as_the_encoder():
    """One feature after the other, so that Adam reads both in the same order."""
    inputs = problem()
    acts, estimate = relu_estimate(*inputs)
    (estimate.sum() + acts.sum()).backward()
    assert inputs[1].grad.stride() == inputs[1].stride()


def test_a_frozen_input_gets_no_gradient_and_needs_none():
    inputs = problem(requires_grad=False)
    inputs[4].requires_grad_()
    acts, estimate = relu_estimate(*inputs)
    estimate.sum().backward()
    torch.testing.assert_close(inputs[4].grad, acts.sum(dim=0)[:, None].expand(9, 3))
    assert inputs[0].grad is None


def test_under_autocast_products_are_rounded_as_those_of_autograd():
    def products(x, W, b, centre, atoms):
        acts = torch.addmm(b - torch.mv(W.T, centre), x, W).relu()
        return acts, acts @ atoms

    found = []
    for way in (relu_estimate, products):
        inputs = problem(n=40, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            acts, estimate = way(*inputs)
            loss = LOSSES["both"](acts.float(), estimate.float())
        assert acts.dtype == estimate.dtype == torch.bfloat16
        found.append((acts, estimate, *torch.autograd.grad(loss, inputs)))
    for ours, theirs in zip(*found, strict=True):
        error = (ours.float() - theirs.float()).abs().max()
        assert error < 0.02 * theirs.float().abs().max()
    assert all(t.dtype == torch.float32 for t in found[0][2:])
