import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.sparsity import dead_fraction, feature_density


def test_density_counts_rows_and_not_magnitudes():
    acts = torch.tensor([[9.0, 0.0, -1.0], [0.1, 0.0, 0.0], [3.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert feature_density(SparseActs.from_dense(acts)).tolist() == [1.0, 0.0, 0.25]


def test_dead_fraction_counts_exact_zeros():
    assert dead_fraction(torch.tensor([1.0, 0.0, 1e-7, 0.0])).item() == 0.5
    assert dead_fraction(torch.zeros(3)).item() == 1
    assert dead_fraction(torch.ones(3)).item() == 0


def test_nothing_to_count_is_refused():
    with pytest.raises(InputError, match="at least one row"):
        feature_density(SparseActs.from_dense(torch.empty(0, 3)))
    with pytest.raises(InputError, match="at least one feature"):
        dead_fraction(torch.empty(0))
