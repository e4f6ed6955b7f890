"""An MLP recomputed from its weights."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import MLPWeights


def mlp(**changes):
    one = {
        "W_in": torch.tensor([[1.0, -1.0], [0.0, 1.0]]),
        "b_in": torch.tensor([0.0, 0.5]),
        "W_out": torch.ones(2, 3),
        "b_out": torch.zeros(3),
        "act_name": "relu",
    }
    return MLPWeights(**(one | changes))


def test_hidden():
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
    assert mlp().hidden(x).tolist() == [[2.0, 0.0], [0.0, 1.5]]


def test_hidden_of_a_gated_mlp():
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])  # x @ W_in + b_in = [2, -0.5], [-1, 1.5]
    gate = torch.tensor([[1.0, 1.0], [1.0, 2.0]])  # x @ gate = [3, 4], [-1, -1]
    assert mlp(W_gate=gate).hidden(x).tolist() == [[6.0, -2.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"b_in": torch.ones(3)},
        {"W_out": torch.ones(3, 2)},
        {"b_out": torch.ones(3, 1)},
        {"W_gate": torch.ones(2, 1)},
        {"W_in": torch.ones(2), "b_in": torch.ones(())},
    ],
)
@pytest.mark.untyped
def test_weights_that_do_not_fit_are_refused(changes):
    with pytest.raises(InputError, match="weights of an MLP must have shapes"):
        mlp(**changes)
