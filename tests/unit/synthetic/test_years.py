"""The greater-than task, beside its distribution."""

import pytest
import torch

from dictlearn.core.errors import ConfigError
from dictlearn.synthetic.years import LaterYears


def test_the_second_year_is_uniform_among_the_later_ones():
    task = LaterYears(n_years=4)
    ids = task.sample(40_000, seed=0)
    assert torch.equal(ids[:, [0, 2]].unique(dim=0), torch.tensor([[task.bos, task.to]]))
    counts = torch.zeros(4, 4).index_put((ids[:, 1], ids[:, 3]), torch.ones(len(ids)), True)
    third = 1 / 3
    expected = [[0, third, third, third], [0, 0, 0.5, 0.5], [0, 0, 0, 1]]
    assert torch.allclose(counts[:3] / counts[:3].sum(1, keepdim=True), torch.tensor(expected),
                          atol=0.02)  # fmt: skip
    assert torch.allclose(counts.sum(1)[:3] / len(ids), torch.full((3,), third), atol=0.02)


def test_samples_follow_the_seed():
    task = LaterYears()
    assert torch.equal(task.sample(8, 1), task.sample(8, 1))
    assert not torch.equal(task.sample(8, 1), task.sample(8, 2))


def test_one_year_has_no_later_one():
    with pytest.raises(ConfigError, match="at least 2"):
        LaterYears(n_years=1)
