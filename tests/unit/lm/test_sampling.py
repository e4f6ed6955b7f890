"""Draws have the probabilities that temperature and nucleus define."""

import pytest
import torch

from dictlearn.core.errors import NonFiniteError
from dictlearn.lm.sampling import next_tokens, nucleus

LOGITS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
N = 40_000


def frequencies(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = next_tokens(logits.expand(N, -1), temperature, top_p, generator)
    return torch.bincount(drawn, minlength=len(logits)) / N


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.4, 0.3, 0.2, 0.1]),
        (0.5, 1.0, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (1.0, 0.7, [4 / 7, 3 / 7, 0, 0]),
        (1.0, 0.75, [4 / 9, 3 / 9, 2 / 9, 0]),
        (0.5, 16 / 30, [1, 0, 0, 0]),  # the nucleus is that of the distribution at work
        (1.0, 1e-9, [1, 0, 0, 0]),
        (0.0, 1.0, [1, 0, 0, 0]),
    ],
)
def test_tokens_have_their_probabilities(temperature, top_p, expected):
    found = frequencies(LOGITS, temperature, top_p)
    expected = torch.tensor(expected)
    assert (found[expected == 0] == 0).all()
    error = (expected * (1 - expected) / N).sqrt()
    assert ((found - expected).abs() <= 4 * error).all()


def test_rows_are_drawn_independently():
    generator = torch.Generator().manual_seed(1)
    first, second = next_tokens(torch.zeros(2 * N, 2), 1.0, 1.0, generator).view(2, N)
    assert abs((first == second).float().mean() - 0.5) < 4 * 0.5 / N**0.5


def test_order_and_offset_of_the_vocabulary_do_not_matter():
    backwards = nucleus(LOGITS.exp().flip(0)[None], 0.7)
    assert torch.equal(backwards.flip(1), nucleus(LOGITS.exp()[None], 0.7))
    assert torch.equal(frequencies(LOGITS + 1000, 1.0, 1.0), frequencies(LOGITS, 1.0, 1.0))


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 1e-9])
def test_a_low_temperature_is_greedy(temperature):
    assert frequencies(LOGITS[[3, 2, 0, 1]], temperature, 1.0).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_that_are_impossible_are_never_drawn(temperature):
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, -1.0])
    assert frequencies(logits, temperature, 1.0)[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_drawn_from_what_is_no_distribution(wrong, temperature):
    logits = torch.tensor([[0.0, 1.0], wrong])
    with pytest.raises(NonFiniteError, match=r"finite logits .* in sequence 1"):
        next_tokens(logits, temperature, 1.0, torch.Generator())
