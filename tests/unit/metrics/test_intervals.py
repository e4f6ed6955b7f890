"""Resamples are whole, seeded, and refused where there is nothing to resample."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.metrics.intervals import bootstrap_weights


def test_weights_draw_every_resample_in_full():
    weights = bootstrap_weights(7, 50)
    assert weights.sum(dim=1).tolist() == [7.0] * 50
    assert torch.equal(weights, bootstrap_weights(7, 50))
    assert not torch.equal(weights, bootstrap_weights(7, 50, seed=1))


def test_one_sequence_says_nothing_about_variation():
    with pytest.raises(InputError, match="at least 2"):
        bootstrap_weights(1)
