"""Loops over gathered rows: Triton's, by its interpreter, beside torch's; and which are used."""

import dataclasses
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from dictlearn.core.files import write_json
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import gathering, kept, triton_loops
from dictlearn.kernels.decode import decode
from dictlearn.kernels.gathering import TORCH, TRITON, GPUTimings
from dictlearn.kernels.scores import differentiable_scores

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs Triton: pip install dictlearn[gpu]"
)
WIDTHS = [1, 16, 37, 600]  # below, at and between multiples of a block, and over several


@pytest.fixture
def interpreted(monkeypatch):
    """Triton's loops, run by its interpreter on tensors of the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    triton_loops._loops.cache_clear()
    yield
    triton_loops._loops.cache_clear()


@pytest.fixture
def by_triton(interpreted, monkeypatch):
    """Every product by Triton, also those that compiled loops compute on a CPU."""
    monkeypatch.setattr(gathering, "loops", lambda *tensors: TRITON)
    monkeypatch.setattr("dictlearn.kernels.entries.is_native", lambda *tensors: False)


def gathered(d, dtype, seed=0):
    """Groups of entries: none, one, the same row twice, a weight of zero, none at the end."""
    make = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, 0, 1, 4, 8, 8])
    rows = torch.tensor([6, 2, 2, 0, 5, 1, 3, 4])
    weights = torch.randn(8, generator=make, dtype=torch.float64).to(dtype)
    weights[5] = 0
    return starts, rows, weights, torch.randn(7, d, generator=make, dtype=torch.float64).to(dtype)


def tolerance(dtype):
    rounding = torch.finfo(dtype).eps
    return {"rtol": 4 * rounding, "atol": 40 * rounding}


@needs_triton
@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_and_dots_are_those_of_dense_products(interpreted, d, dtype):
    starts, rows, weights, x = gathered(d, dtype)
    dense = torch.zeros(5, 7, dtype=torch.float64)
    groups = torch.repeat_interleave(starts.diff())
    dense.index_put_((groups, rows), weights.double(), accumulate=True)
    y = gathered(d, dtype, seed=1)[3]
    products = (x.double() @ y.double().T)[rows, groups]
    for loops in (TRITON, TORCH):
        found = loops.weighted_sums(starts, rows, weights, x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, (dense @ x.double()).to(dtype), **tolerance(dtype))
        found = loops.dots(rows, groups, x, y)
        assert found.dtype == dtype
        # Of sums of d terms; bfloat16 is rounded at every step by torch.
        allowed = tolerance(dtype)["atol"] * d**0.5
        torch.testing.assert_close(
            found, products.to(dtype), rtol=4e-2 * (d > 1) * (dtype == torch.bfloat16), atol=allowed
        )


@needs_triton
def test_sums_of_bfloat16_are_taken_in_float32(interpreted):
    ones = torch.ones(300, 3, dtype=torch.bfloat16)
    sums = TRITON.weighted_sums(torch.tensor([0, 300]), torch.arange(300), ones[:, 0], ones)
    assert sums.tolist() == [[300.0] * 3]  # adding one to 256 changes nothing in bfloat16


@needs_triton
@pytest.mark.parametrize("n", [0, 3])
def test_nothing_active_gives_zeros(interpreted, n):
    none, x = torch.empty(0, dtype=torch.long), torch.randn(4, 5)
    sums = TRITON.weighted_sums(torch.zeros(n + 1, dtype=torch.long), none, x.new_empty(0), x)
    assert torch.equal(sums, torch.zeros(n, 5))
    assert TRITON.dots(none, none, x, x).shape == (0,)


@needs_triton
def test_rows_of_transposed_matrices(interpreted):
    starts, rows, weights, x = gathered(7, torch.float64)
    torch.testing.assert_close(
        TRITON.weighted_sums(starts, rows, weights, x.T),
        TORCH.weighted_sums(starts, rows, weights, x.T),
    )
    torch.testing.assert_close(TRITON.dots(rows, rows, x.T, x), TORCH.dots(rows, rows, x.T, x))


@needs_triton
@pytest.mark.parametrize("n", [0, 6])
def test_decoding_by_triton_has_the_gradients_of_the_dense_product(by_triton, n):
    make = torch.Generator().manual_seed(0)
    dense = torch.randn(n, 9, generator=make, dtype=torch.float64)
    dense *= torch.rand(n, 9, generator=make) < 0.4
    dense[:, 4] = 0
    atoms = torch.randn(9, 21, generator=make, dtype=torch.float64).requires_grad_()
    weights = torch.randn(n, 21, generator=make, dtype=torch.float64)
    acts = SparseActs.from_dense(dense)
    values = acts.values.clone().requires_grad_()
    estimate = decode(acts.with_values(values), atoms)
    torch.testing.assert_close(estimate, dense @ atoms)
    found = torch.autograd.grad((estimate * weights).sum(), (values, atoms))
    torch.testing.assert_close(found[0], (weights @ atoms.T)[acts.rows(), acts.indices])
    torch.testing.assert_close(found[1], dense.T @ weights)


@needs_triton
def test_scores_by_triton_have_the_gradients_of_the_dense_product(by_triton):
    make = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    x, W, b = torch.randn(5, 3, **make), torch.randn(3, 7, **make), torch.randn(7, **make)
    x, W = x.requires_grad_(), W.requires_grad_()
    scores = torch.addmm(b, x, W)
    acts = SparseActs.from_dense(scores.detach().relu())
    found = differentiable_scores(x, W, b, acts).values.square().sum()
    expected = scores.relu().square().sum()
    for own, dense in zip(
        *(torch.autograd.grad(y, (x, W)) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(own, dense)


COMPILES = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
import torch
from dictlearn.kernels import triton_loops

for dtype, name in ((torch.float64, "*fp64"), (torch.float32, "*fp32"), (torch.bfloat16, "*bf16")):
    known = {"BLOCK": 64, "SUM": triton_loops._sum_dtype(torch.ones(1, 1, dtype=dtype))}
    numbers, whole = dict.fromkeys(("x", "out"), name), dict.fromkeys(("starts", "rows"), "*i64")
    last = {"d": "i32"} | dict.fromkeys(known, "constexpr")
    sums = whole | {"weights": name} | numbers | last
    dots = dict.fromkeys(("x_rows", "y_rows"), "*i64") | {"x": name, "y": name, "out": name} | last
    for loop, signature in (("weighted_sums", sums), ("dots", dots)):
        source = ASTSource(getattr(triton_loops._loops(), loop), signature, known)
        made = compile(source, target=GPUTarget("cuda", 80, 32)).asm
        assert made["cubin"]
        assert "atom" not in made["ptx"], "no sum may depend on the order in which programs end"
"""


@needs_triton
def test_the_loops_compile_for_a_gpu(tmp_path):
    """The interpreter accepts more than the compiler, which needs no GPU.

    In a process of its own: a loop that was interpreted leaves Triton unable to compile.
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", COMPILES], env=environment, check=True)


@needs_triton
def test_both_ways_are_timed(interpreted, monkeypatch):
    monkeypatch.setattr(gathering, "_TRIAL", (6, 5, 8, 2))
    monkeypatch.setattr(gathering, "_ROUNDS", 1)
    found = gathering.measure(torch.device("cpu"))
    assert found.machine.startswith("cpu, torch ")
    assert found.triton > 1, "interpreted loops take longer"


class OnGPU(torch.Tensor):
    """Numbers that say that they are on a GPU."""

    device = torch.device("cuda", 0)


def on_gpu(dtype=torch.float32):
    return torch.ones(2, 3, dtype=dtype).as_subclass(OnGPU)


@pytest.fixture
def kept_time(monkeypatch, tmp_path):
    """Writes the time that is kept of the GPU of `on_gpu`."""
    monkeypatch.setenv(kept.FOLDER, str(tmp_path))
    monkeypatch.setattr(gathering, "described", lambda device: "a GPU")
    monkeypatch.setattr(triton_loops, "is_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def write(ratio):
        gathering.timings.cache_clear()
        write_json(gathering.path(OnGPU.device), dataclasses.asdict(GPUTimings("a GPU", ratio)))

    yield write
    gathering.timings.cache_clear()


@pytest.mark.parametrize(("ratio", "loops"), [(0.5, TRITON), (0.96, TORCH), (1.5, TORCH)])
def test_the_kept_time_decides_on_a_gpu(kept_time, ratio, loops):
    kept_time(ratio)
    assert gathering.loops(on_gpu(), on_gpu()) is loops
    (told,) = gathering.told()
    assert told.startswith("cuda:0: Triton" if loops is TRITON else "cuda:0: torch")
    gathering.forget()
    assert not gathering.path(OnGPU.device).exists()


def test_triton_is_for_gpus_and_for_one_dtype(kept_time, monkeypatch):
    kept_time(0.5)
    assert gathering.loops(torch.ones(2), torch.ones(2)) is TORCH
    assert gathering.loops(on_gpu(), torch.ones(2)) is TORCH
    assert gathering.loops(on_gpu(), on_gpu(torch.bfloat16)) is TORCH
    with without_shortcuts():
        assert gathering.loops(on_gpu()) is TORCH
    monkeypatch.setattr(triton_loops, "is_installed", lambda: False)
    assert gathering.loops(on_gpu()) is TORCH
    assert gathering.told() == ["cuda:0: torch's operations, since Triton is not installed"]
