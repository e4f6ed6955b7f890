import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.metrics.inputs import paired, precise


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_is_raised_and_never_lowered(given, expected):
    assert precise(torch.ones(2, dtype=given)).dtype == expected


def test_shapes_that_would_broadcast_are_named():
    with pytest.raises(InputError, match=r"estimate of shape \(3, 2\), got \(1, 2\); expand"):
        paired(torch.ones(3, 2), torch.ones(1, 2))
