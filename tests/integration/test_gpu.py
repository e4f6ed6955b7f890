"""Models, activations and training on a GPU."""

import pytest
import torch

import dictlearn as dl
from dictlearn.core.batches import Rows
from dictlearn.core.devices import DEVICE
from dictlearn.core.tokens import Tokens
from dictlearn.lm.attention import fusable_attention
from dictlearn.lm.forward import activations_at, reading

pytestmark = pytest.mark.gpu
HOOK = "blocks.1.hook_mlp_out"


@pytest.fixture
def setting(monkeypatch):
    """The built-in model where it is loaded by default, and some tokens."""
    monkeypatch.delenv(DEVICE, raising=False)
    model = dl.load_model("builtin:stories")
    ids = torch.randint(4096, (64, 64), generator=torch.Generator().manual_seed(0))
    return model, Tokens(ids, torch.ones_like(ids, dtype=torch.bool), source="", split="", hash="")


def test_everything_is_on_the_gpu_unless_told(setting):
    """Rows of a live stream go from the model to the dictionary without leaving it."""
    model, tokens = setting
    assert next(iter(model.parameters())).is_cuda
    live = dl.harvest(model, tokens, dl.hook_sites(model, HOOK))
    assert live.rows(0, 0, 256).at[HOOK].is_cuda
    run = dl.FitConfig(steps=3, batch_size=256, standardize_rows=256)
    dictionary = dl.fit(dl.TopKSAEConfig(n_features=64, k=4), live, run, progress=False)
    assert dictionary.atoms.is_cuda
    records = dl.evaluate({"sae": dictionary}, model, tokens, progress=False)
    assert "fused attention" in records.tokens["shortcuts"]


def test_rows_from_disk_arrive_as_they_are(setting, tmp_path):
    model, tokens = setting
    store = dl.harvest(model, tokens, dl.hook_sites(model, HOOK), tmp_path / "store")
    rows = store.rows(0, 0, 256)
    moved = rows.to(torch.device("cuda"), torch.float64).at[HOOK]
    assert moved.is_cuda
    assert torch.equal(moved.cpu(), rows.at[HOOK].double())
    again = Rows({HOOK: moved}).to(torch.device("cuda"), torch.float64)
    assert again.at[HOOK] is moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_runs_fused(setting, dtype):
    model, tokens = setting
    model = model.to(dtype)
    attention = fusable_attention(model)
    with reading(model, [HOOK], attention) as read:
        found = read(tokens.ids)[HOOK].float()
    assert len(attention.used) == 2
    expected = activations_at(model, tokens.ids, [HOOK])[HOOK].float()
    assert (found - expected).norm() <= 0.03 * expected.norm()
