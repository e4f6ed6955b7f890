"""Sites: equality, JSON, and an MLP recomputed from its weights."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sites import MLPWeights, Site, Sites

A, B = Site("mlp.in", 2), Site("mlp.out", 3)


def mlp(**changes):
    one = {
        "W_in": torch.tensor([[1.0, -1.0], [0.0, 1.0]]),
        "b_in": torch.tensor([0.0, 0.5]),
        "W_out": torch.ones(2, 3),
        "b_out": torch.zeros(3),
        "act_name": "relu",
    }
    return MLPWeights(**(one | changes))


def test_a_width_is_positive():
    with pytest.raises(InputError, match=r"width of at least 1, got \(0,\) at \('x',\)"):
        Site("x", 0)


def test_autoencoder_and_transcoder():
    assert Sites(A, A).is_autoencoder
    assert not Sites(A, B).is_autoencoder
    assert Sites(A, A).hooks == ("mlp.in",)
    assert Sites(A, B).hooks == ("mlp.in", "mlp.out")
    assert Sites(A, B).at_target() == Sites(B, B)
    assert str(Sites(A, A)) == "mlp.in"
    assert str(Sites(A, B)) == "mlp.in -> mlp.out"


def test_one_hook_of_two_widths_is_no_autoencoder():
    assert not Sites(A, Site("mlp.in", 3)).is_autoencoder


def test_weights_are_no_part_of_equality_or_of_files():
    with_weights = Sites(A, B, mlp())
    assert with_weights == Sites(A, B)
    assert hash(with_weights) == hash(Sites(A, B))
    assert "mlp=" not in repr(with_weights)
    assert Sites.from_dict(with_weights.to_dict()) == with_weights
    assert Sites.from_dict(with_weights.to_dict()).mlp is None
    assert with_weights.at_target().mlp is None


def test_hidden():
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])
    assert mlp().hidden(x).tolist() == [[2.0, 0.0], [0.0, 1.5]]


def test_hidden_of_a_gated_mlp():
    x = torch.tensor([[2.0, 1.0], [-1.0, 0.0]])  # x @ W_in + b_in = [2, -0.5], [-1, 1.5]
    gate = torch.tensor([[1.0, 1.0], [1.0, 2.0]])  # x @ gate = [3, 4], [-1, -1]
    assert mlp(W_gate=gate).hidden(x).tolist() == [[6.0, -2.0], [0.0, 0.0]]
