"""Models, activations and training on a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dictlearn as dl
from dictlearn.core.batches import Rows
from dictlearn.core.devices import DEVICE
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.core.tokens import Tokens
from dictlearn.kernels import gathering, triton_loops
from dictlearn.kernels.decode import decode
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


class Moves(TorchDispatchMode):
    """Records how many numbers each copy between devices has."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        operation = func.overloadpacket
        if operation is torch.ops.aten._to_copy and args[0].device != out.device:
            self.sizes.append(out.numel())
        if operation is torch.ops.aten.copy_ and args[0].device != args[1].device:
            self.sizes.append(out.numel())
        return out


def test_live_rows_are_not_copied_to_main_memory(setting):
    """Tokens and masks are moved to the model, of one number a token; rows have 128 each."""
    model, tokens = setting
    live = dl.harvest(model, tokens, dl.hook_sites(model, HOOK))
    with Moves() as moves:
        rows = live.rows(0, 0, 1024).to(torch.device("cuda"), torch.float32)
    assert rows.at[HOOK].is_cuda
    assert max(moves.sizes) <= tokens.ids.numel()
    assert max(moves.sizes) < rows.at[HOOK].numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_triton_decodes_as_torch_does_and_the_same_every_time(monkeypatch, dtype):
    if not triton_loops.is_installed():
        pytest.skip("needs Triton: pip install dictlearn[gpu]")
    make = torch.Generator().manual_seed(0)
    dense = torch.randn(300, 500, generator=make) * (torch.rand(300, 500, generator=make) < 0.1)
    dense[:, 7] = 1.0  # a feature that is always active
    acts = SparseActs.from_dense(dense.cuda().to(dtype))
    atoms = torch.randn(500, 700, generator=make).cuda().to(dtype).requires_grad_()
    weights = torch.randn(300, 700, generator=make).cuda().to(dtype)
    values = acts.values.clone().requires_grad_()

    def computed(loops):
        monkeypatch.setattr(gathering, "loops", lambda *tensors: loops)
        estimate = decode(acts.with_values(values), atoms)
        gradients = torch.autograd.grad((estimate * weights).sum(), (values, atoms))
        return estimate.detach(), *gradients

    by_triton, again, by_torch = map(computed, (gathering.TRITON,) * 2 + (gathering.TORCH,))
    eps = torch.finfo(dtype).eps
    for own, other, plain in zip(by_triton, again, by_torch, strict=True):
        assert torch.equal(own, other)
        assert (own - plain).norm() <= 40 * eps * plain.norm()
