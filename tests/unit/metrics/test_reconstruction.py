import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from dictlearn.core.errors import InputError
from dictlearn.metrics.reconstruction import fraction_variance_unexplained

Y = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)) + 2.0


def test_perfect_estimate():
    assert fraction_variance_unexplained(Y, Y).item() == 0


def test_mean_estimate_explains_exactly_nothing():
    mean = Y.mean(dim=0).expand_as(Y)
    assert fraction_variance_unexplained(Y, mean).item() == 1


def test_zero_estimate_by_hand():
    y = torch.tensor([[1.0], [3.0]])  # mean 2, variance sum 2, squared error 1 + 9
    zero = torch.zeros_like(y)
    assert fraction_variance_unexplained(y, zero).item() == 5


def test_a_bad_estimate_is_not_clipped():
    assert fraction_variance_unexplained(Y, -3 * Y).item() > 1


@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_fvu_does_not_depend_on_units(scale, shift):
    y, y_hat = Y.double(), Y.double().roll(1, dims=0)
    moved = fraction_variance_unexplained(scale * y + shift, scale * y_hat + shift)
    torch.testing.assert_close(moved, fraction_variance_unexplained(y, y_hat))


@given(st.floats(-2, 2))
def test_fvu_of_a_centred_estimate_is_quadratic_in_its_shrinkage(scale):
    y = Y.double() - Y.double().mean(dim=0)
    assert fraction_variance_unexplained(y, scale * y).item() == pytest.approx((1 - scale) ** 2)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_constant_target_has_no_variance(n):
    y = torch.full((n, 3), 0.1)
    with pytest.raises(InputError, match=f"got {n} equal rows"):
        fraction_variance_unexplained(y, y)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises((InputError, TypeCheckError)):  # the latter where shapes are checked
        fraction_variance_unexplained(Y, Y.mean(dim=0, keepdim=True))
