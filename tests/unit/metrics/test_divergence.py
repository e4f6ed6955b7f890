"""Jensen-Shannon divergence and purity: known values."""

from math import log

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from dictlearn.metrics.divergence import jensen_shannon_divergence
from dictlearn.metrics.purity import purity


def test_jensen_shannon_divergence():
    p, q = torch.randn(2, 50, 7, dtype=torch.float64).softmax(-1)
    p[0, :3] = 0
    p[0] /= p[0].sum()
    found = jensen_shannon_divergence(p.log(), q.log())
    wanted = [jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    assert np.allclose(found.numpy(), wanted, atol=1e-12)
    assert torch.allclose(found, jensen_shannon_divergence(q.log(), p.log()))
    assert jensen_shannon_divergence(p.log(), p.log()).abs().max() < 1e-15
    one = torch.eye(2).log()
    assert jensen_shannon_divergence(one[0], one[1]).item() == pytest.approx(log(2))


def test_purity():
    assert purity(torch.arange(6).unsqueeze(1)) == 1.0
    assert purity(torch.zeros(6, 1, dtype=torch.long)) == 0.0
    assert purity(torch.tensor([[1, 2], [1, 3], [1, 2], [0, 2]])) == pytest.approx(2 / 3)
