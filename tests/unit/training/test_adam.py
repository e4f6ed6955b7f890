"""Adam in the order of memory: the same steps as torch's."""

import pytest
import torch
from torch import nn

from dictlearn.training.adam import Adam

SHAPES = {"rows": (5, 7), "columns": (5, 7), "vector": (9,), "number": ()}


def parameters(dtype):
    make = torch.Generator().manual_seed(0)
    found = [nn.Parameter(torch.randn(s, generator=make, dtype=dtype)) for s in SHAPES.values()]
    found[1] = nn.Parameter(found[1].detach().T.contiguous().T)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_and_moments_are_those_of_torch(dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizers = [
        kind([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(own)], fused=True)
        for kind, own in ((Adam, ours), (torch.optim.Adam, theirs))
    ]
    make = torch.Generator().manual_seed(1)
    for step in range(4):
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(SHAPES[[*SHAPES][i]], generator=make, dtype=dtype)
            for parameter in pair:
                parameter.grad = None if (step, i) == (1, 0) else gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for own, other in zip(ours, theirs, strict=True):
        assert own.stride() == other.stride()
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
        moments = (
            optimizer.state[p] for optimizer, p in zip(optimizers, (own, other), strict=True)
        )
        for found, expected in zip(*(state.items() for state in moments), strict=True):
            assert found[0] == expected[0]
            torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-7)


def test_a_matrix_kept_by_columns_is_not_copied(monkeypatch):
    """torch's own loop asks for row-major memory, and is given it."""
    seen = []
    column_major = nn.Parameter(torch.ones(3, 4).T)
    column_major.grad = torch.ones(3, 4).T
    optimizer = Adam([column_major], lr=0.1, fused=True)
    fused = torch._fused_adam_

    def noticing(*lists, **settings):
        seen.extend(t.is_contiguous() for tensors in lists[:4] for t in tensors)
        return fused(*lists, **settings)

    monkeypatch.setattr(torch, "_fused_adam_", noticing)
    optimizer.step()
    assert seen == [True] * 4
    assert column_major.shape == (4, 3)
    torch.testing.assert_close(column_major.detach(), torch.full((4, 3), 0.9))
