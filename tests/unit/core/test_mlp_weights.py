"""An MLP recomputed from its weights."""

import torch

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
