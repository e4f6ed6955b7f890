"""Predictions compared tile by tile, against the same numbers from whole tables of logits."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.metrics import predictions
from dictlearn.metrics.predictions import compared
from dictlearn.metrics.rows import cross_entropy, kl_divergence, top1_agreement


def through(weight):
    return lambda rows, tokens: rows @ weight[:, tokens]


@pytest.mark.parametrize("tile", [(3, 4), (512, 512)])
def test_every_number_is_that_of_whole_tables(tile, monkeypatch):
    monkeypatch.setattr(predictions, "_TILE_ON_CPU", tile)
    make = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 23, generator=make, dtype=torch.float64)
    clean, a, b = (3 * torch.randn(11, 6, generator=make, dtype=torch.float64) for _ in range(3))
    targets = torch.randint(23, (11,), generator=make)
    loss, found = compared(through(weight), 23, clean, {"a": a, "b": b, "same": clean}, targets)
    torch.testing.assert_close(loss, cross_entropy(clean @ weight, targets))
    for name, rows in {"a": a, "b": b, "same": clean}.items():
        logits = rows @ weight
        torch.testing.assert_close(found[name].cross_entropy, cross_entropy(logits, targets))
        torch.testing.assert_close(found[name].kl, kl_divergence(clean @ weight, logits))
        same = top1_agreement(clean @ weight, logits).double()
        assert torch.equal(found[name].top1_agreement, same)
    assert found["same"].kl.tolist() == [0.0] * 11


def test_tokens_of_probability_zero_do_not_count():
    clean = torch.tensor([[0.0, 1.0, -torch.inf]])
    other = torch.tensor([[0.5, 0.5, -torch.inf]])
    every = lambda rows, tokens: rows[:, tokens]  # noqa: E731
    _, found = compared(every, 3, clean, {"other": other}, torch.tensor([0]))
    torch.testing.assert_close(found["other"].kl.float(), kl_divergence(clean, other))


@pytest.mark.untyped
def test_rows_of_another_shape_are_refused():
    with pytest.raises(InputError):
        compared(through(torch.ones(2, 3)), 3, torch.ones(4, 2), {"a": torch.ones(3, 2)},
                 torch.zeros(4, dtype=torch.long))  # fmt: skip
