import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.rows import (
    cosine_similarity,
    cross_entropy,
    kl_divergence,
    l0,
    l1,
    squared_error,
    squared_norm,
    top1_agreement,
)

Y = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 0.0]])
ONE_THIRD_TWO_THIRDS = torch.tensor([[0.0, math.log(2)]])
EVEN = torch.tensor([[5.0, 5.0]])


def test_l0_and_l1_count_and_sum_magnitudes():
    acts = SparseActs.from_dense(torch.tensor([[0.0, 3.0, -1.0], [0.0] * 3, [0.5, 0.5, 0.5]]))
    assert l0(acts).tolist() == [2, 0, 3]
    assert l1(acts).tolist() == [4, 0, 1.5]


def test_l1_of_half_precision_is_summed_in_single_precision():
    acts = SparseActs.from_dense(torch.ones(1, 1000, dtype=torch.bfloat16))
    assert l1(acts).tolist() == l0(acts).tolist() == [1000]


def test_squared_error_of_perfect_zero_and_scaled_estimates():
    assert squared_error(Y, Y).tolist() == [0, 0, 0]
    assert squared_error(Y, torch.zeros_like(Y)).tolist() == squared_norm(Y).tolist() == [5, 25, 0]
    assert squared_error(Y, 3 * Y).tolist() == [20, 100, 0]


def test_cosine_ignores_scale_and_is_zero_without_a_direction():
    torch.testing.assert_close(cosine_similarity(Y, 7 * Y), torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(cosine_similarity(Y, -Y), torch.tensor([-1.0, -1.0, 0.0]))
    assert cosine_similarity(Y, torch.zeros_like(Y)).tolist() == [0, 0, 0]


def test_cosine_of_a_known_angle():
    y = torch.tensor([[1.0, 0.0]])
    y_hat = torch.tensor([[1.0, 1.0]])
    assert cosine_similarity(y, y_hat).item() == pytest.approx(math.sqrt(0.5))


@given(st.floats(1e-15, 1e15))
def test_cosine_holds_at_every_scale(scale):
    y = torch.tensor([[3.0, 4.0]])
    assert cosine_similarity(y, scale * y).item() == pytest.approx(1.0)


def test_cross_entropy_by_hand():
    logits = ONE_THIRD_TWO_THIRDS.repeat(2, 1)
    expected = torch.tensor([math.log(3), math.log(1.5)])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0, 1])), expected)


def test_kl_by_hand_and_its_direction():
    # p = (1/2, 1/2), q = (1/3, 2/3): KL(p||q) = ln(3/2)/2 + ln(3/4)/2 = ln(9/8)/2
    forward = kl_divergence(EVEN, ONE_THIRD_TWO_THIRDS)
    assert forward.item() == pytest.approx(math.log(9 / 8) / 2)
    # KL(q||p) = ln(2/3)/3 + 2 ln(4/3)/3
    backward = kl_divergence(ONE_THIRD_TWO_THIRDS, EVEN)
    assert backward.item() == pytest.approx(math.log(2 / 3) / 3 + 2 * math.log(4 / 3) / 3)


def test_kl_is_zero_for_equal_logits_and_for_a_shift():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(logits, logits).tolist() == [0, 0, 0, 0]
    shifted = kl_divergence(logits, logits + 3)
    torch.testing.assert_close(shifted, torch.zeros(4), atol=1e-6, rtol=0)


def test_kl_ignores_tokens_of_probability_zero():
    masked = torch.tensor([[0.0, 0.0, -math.inf]])
    assert kl_divergence(masked, masked).item() == 0
    assert kl_divergence(masked, torch.zeros(1, 3)).item() == pytest.approx(math.log(1.5))


def test_top1_agreement():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 1.0, 0.0]])
    assert top1_agreement(logits, logits).tolist() == [1, 1]
    assert top1_agreement(logits, torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])).tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    "metric", [squared_error, cosine_similarity, kl_divergence, top1_agreement]
)
def test_shapes_that_would_broadcast_are_refused(metric):
    with pytest.raises((InputError, TypeCheckError)):  # the latter where shapes are checked
        metric(Y, Y[:1])


def test_half_precision_is_computed_in_single_precision():
    y = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert squared_error(y, torch.zeros_like(y)).item() == 1000
    assert squared_norm(y).dtype == cosine_similarity(y, y).dtype == torch.float32


def test_no_rows_give_no_numbers():
    none = torch.empty(0, 2)
    for metric in (squared_error, cosine_similarity, kl_divergence, top1_agreement):
        assert metric(none, none).shape == (0,)
    acts = SparseActs.from_dense(none)
    assert l0(acts).shape == l1(acts).shape == (0,)
