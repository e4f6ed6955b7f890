"""The options of commands for the device and the precision of the model."""

import os

import pytest
import torch

from dictlearn.cli.subject import beside, loaded, use_device
from dictlearn.core.devices import DEVICE
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.random import RandomConfig
from dictlearn.lm.hooks import is_native
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.sites import hook_sites


def test_the_model_has_the_precision_and_device_of_the_options():
    model = loaded("builtin:stories", check=True, device="cpu", dtype="bfloat16")
    assert is_native(model)
    assert model_provenance(model).dtype == "bfloat16"
    assert next(iter(model.parameters())).device == torch.device("cpu")
    sites = hook_sites(model, "blocks.0.hook_mlp_out")
    own = RandomConfig(n_features=8, k=2).build(sites, seed=0)
    assert beside(model, {"own": own})["own"].x_mean.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": None, "dtype": "float23"}, "--model-dtype must be one of.*mean 'float32'"),
        ({"device": "meta", "dtype": "float32"}, "the device 'meta' cannot be used"),
    ],
)
def test_options_that_name_nothing(options, words):
    with pytest.raises(InputError, match=words):
        loaded("builtin:stories", check=True, **options)


def test_a_device_is_for_all_that_a_command_runs(monkeypatch):
    monkeypatch.setenv(DEVICE, "cuda:99")
    use_device(None)
    assert os.environ[DEVICE] == "cuda:99"
    with pytest.raises(InputError, match="the device 'meta' cannot be used"):
        use_device("meta")
    use_device("cpu")
    assert os.environ[DEVICE] == "cpu"
