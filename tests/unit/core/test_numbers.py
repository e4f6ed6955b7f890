"""Numbers of Python, numpy and torch, and what is none."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from dictlearn.core.numbers import counts, finite, whole

NO_NUMBERS = (
    None,
    "3",
    True,
    np.True_,
    torch.tensor(True),
    torch.tensor([3]),
    [3],
    3j,
    NotImplemented,
)


@pytest.mark.parametrize("kind", [int, np.int8, np.uint64, np.array, torch.tensor])
def test_whole_numbers(kind):
    found = whole(kind(3))
    assert found == 3
    assert type(found) is int
    assert finite(kind(3)) == 3.0
    assert counts(kind(3)) == counts([kind(3)]) == (3,)


@pytest.mark.parametrize("kind", [float, np.float32, np.array, torch.tensor, Fraction])
def test_finite_numbers(kind):
    found = finite(kind(2.5))
    assert found == 2.5
    assert type(found) is float
    assert whole(kind(2.0)) is None
    assert counts([kind(2.0)]) is None


@pytest.mark.parametrize("given", NO_NUMBERS, ids=repr)
def test_no_numbers(given):
    assert whole(given) is None
    assert finite(given) is None
    assert counts([1, given]) is None


def test_their_ranges():
    assert whole(-(10**30)) == -(10**30)
    assert counts([0, 2**63 - 1]) == (0, 2**63 - 1)
    for given in (-1, 2**63, torch.tensor([2, -1])):
        assert counts(given) is None
    for given in (float("inf"), float("nan"), 10**400, torch.tensor(torch.nan)):
        assert finite(given) is None


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, torch.tensor])
def test_several(kind):
    assert sorted(counts(kind([3, 17]))) == [3, 17]
    assert counts(kind([])) == ()
    assert counts(kind([False, True])) is None
