"""What the benchmark of harvests counts."""

import pytest

from benchmarks.harvest import N_KNOWN, passes, tokens_of


def test_the_passes_that_each_part_needs():
    """Of a model whose layer lies a third of the way, in units of its whole pass."""
    assert passes("harvest", 1 / 3, 0.0) == passes("cards", 1 / 3, 0.0) == 1 / 3
    assert passes("evaluate", 1 / 3, 1.0) == pytest.approx(2 / 3 + 1 + 4 * 2 / 3)


@pytest.mark.parametrize(("n", "length", "blocks"), [(2000, 128, 16), (2000, 1024, 2), (5, 8, 1)])
def test_tokens_are_in_whole_blocks(n, length, blocks):
    tokens = tokens_of(n, length)
    assert tokens.ids.shape == (blocks, length)
    assert tokens.ordinary.all()
    assert tokens.ids.min() >= 0
    assert tokens.ids.max() < N_KNOWN
