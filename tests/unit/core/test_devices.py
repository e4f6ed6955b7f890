"""One rule for the device of models and of training."""

import pytest
import torch

from dictlearn.core.devices import DEVICE, default_device, usable_device
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.training.config import FitConfig


@pytest.fixture(params=[False, True], ids=["no GPU", "a GPU"])
def has_gpu(request, monkeypatch):
    monkeypatch.delenv(DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


def test_the_default_is_the_gpu_if_there_is_one(has_gpu, monkeypatch):
    assert default_device() == ("cuda" if has_gpu else "cpu")
    monkeypatch.setenv(DEVICE, "cpu")
    assert default_device() == "cpu"
    assert usable_device() == torch.device("cpu")


def test_training_follows_the_rule_unless_told(monkeypatch):
    monkeypatch.delenv(DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = FitConfig()
    assert run.to_dict()["device"] is None, "the settings of a run are the same on every machine"
    assert run.torch_device == torch.device("cpu")
    monkeypatch.setenv(DEVICE, "cuda:99")
    assert run.torch_device == torch.device("cuda:99")
    assert FitConfig(device="cpu").torch_device == torch.device("cpu")
    with pytest.raises(ConfigError, match="got 'cuda:99'"):
        FitConfig()


@pytest.mark.parametrize("name", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_cannot_compute_is_refused(name, monkeypatch):
    with pytest.raises(InputError, match=f"the device '{name}' cannot be used"):
        usable_device(name)
    monkeypatch.setenv(DEVICE, name)
    with pytest.raises(
        InputError, match=rf"the device '{name}' \(named by {DEVICE}\) cannot be used"
    ):
        usable_device()
