import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.errors import InputError


def epoch(seed: int, number: int, n_rows: int) -> list[int]:
    return shuffled_positions(seed, number * n_rows, n_rows, n_rows).tolist()


@given(seed=st.integers(-(2**63), 2**64), number=st.integers(0, 50), n_rows=st.integers(1, 700))
def test_every_epoch_visits_every_row_once(seed, number, n_rows):
    assert sorted(epoch(seed, number, n_rows)) == list(range(n_rows))


@given(
    start=st.integers(0, 10**12),
    sizes=st.lists(st.integers(0, 40), max_size=5),
    n_rows=st.integers(1, 10**10),
)
def test_pieces_of_the_walk_join_to_the_whole(start, sizes, n_rows):
    whole = shuffled_positions(3, start, sum(sizes), n_rows).tolist()
    joined = []
    for size in sizes:
        joined += shuffled_positions(3, start, size, n_rows).tolist()
        start += size
    assert joined == whole
    assert all(0 <= row < n_rows for row in whole)


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch(seed, number, 50)) for seed in range(5) for number in range(5)}
    assert len(orders) == 25


def test_neighbouring_seeds_and_epochs_are_unrelated():
    n = 20_000
    base = shuffled_positions(0, 0, n, n).double()
    for other in (shuffled_positions(1, 0, n, n), shuffled_positions(0, n, n, n)):
        correlation = torch.corrcoef(torch.stack([base, other.double()]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(n)


def test_consecutive_places_are_uncorrelated():
    n = 20_000
    order = shuffled_positions(0, 0, n, n).double()
    assert abs(torch.corrcoef(torch.stack([order[:-1], order[1:]]))[0, 1]) < 4 / math.sqrt(n)


def test_positions_of_a_part_of_an_epoch_are_uniform():
    n_rows, bins, n = 10**9 + 7, 100, 100_000
    counts = torch.bincount(shuffled_positions(5, 0, n, n_rows) * bins // n_rows, minlength=bins)
    chi_square = ((counts - n / bins) ** 2 / (n / bins)).sum().item()
    assert abs(chi_square - (bins - 1)) < 4 * math.sqrt(2 * (bins - 1))


def test_all_orders_of_a_few_rows_are_equally_frequent():
    draws = 2400
    counts = Counter(tuple(epoch(seed, 0, 4)) for seed in range(draws))
    assert len(counts) == 24
    chi_square = sum((count - draws / 24) ** 2 / (draws / 24) for count in counts.values())
    assert abs(chi_square - 23) < 4 * math.sqrt(2 * 23)


def test_a_batch_meets_as_many_contexts_as_a_random_draw():
    contexts, rows_each, batch = 2000, 64, 1024
    n_rows = contexts * rows_each
    untouched = math.exp(
        math.lgamma(n_rows - rows_each + 1) - math.lgamma(n_rows - rows_each - batch + 1)
        - math.lgamma(n_rows + 1) + math.lgamma(n_rows - batch + 1)
    )  # fmt: skip
    expected = contexts * (1 - untouched)
    met = [
        len((shuffled_positions(0, step * batch, batch, n_rows) // rows_each).unique())
        for step in range(50)
    ]
    deviation = math.sqrt(contexts * untouched * (1 - untouched) / len(met))
    assert abs(sum(met) / len(met) - expected) < 4 * deviation


@pytest.mark.parametrize(("start", "n", "n_rows"), [(0, 1, 0), (-1, 1, 5), (0, -1, 5)])
def test_impossible_walks_are_refused(start, n, n_rows):
    with pytest.raises(InputError, match=f"n_rows={n_rows}, start={start}, n={n}"):
        shuffled_positions(0, start, n, n_rows)
