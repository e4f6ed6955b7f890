"""Rows in a file without a name: the same bits as in memory, and nothing left behind."""

import gc
import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch

from dictlearn.circuits import rows as module
from dictlearn.circuits.rows import Rows, blocks
from dictlearn.core.errors import StorageError

SMAPS = Path("/proc/self/smaps")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def filled(dtype, in_memory):
    """Seven rows of 40,000 numbers, some of them zero, one negative zero; two rows are missing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 40_000, generator=generator, dtype=torch.float64).to(dtype)
    x[1, :20_000], x[2, 100:39_000], x[3] = 0, 0, 0
    x[4, 7] = -0.0
    rows = Rows(7, 40_000, dtype, in_memory=in_memory)
    rows.write(2, x[1:])
    rows.write(1, x[:1])
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_holds_the_same_bits_and_has_no_name(folder, dtype):
    size = 7 * 40_000 * dtype.itemsize
    inside, outside = filled(dtype, size).first(7), filled(dtype, size - 1).first(7)
    assert len(module._FILES) == 1, "only the one that exceeds the budget is in a file"
    assert outside.dtype == dtype
    assert outside.view(torch.uint8).equal(inside.view(torch.uint8))
    assert not outside[0].any()
    assert not outside[6].any()
    assert filled(dtype, 0).first(3).equal(inside[:3])
    assert not list(folder.iterdir())
    del outside
    gc.collect()
    assert not len(module._FILES)


def test_spans_of_zeros_take_no_space(folder):
    rows = Rows(64, 1 << 18, torch.float32, in_memory=0)
    x = torch.zeros(2, 1 << 18)
    x[0, -1], x[1, 5] = 1.0, 2.0
    rows.write(3, x)
    assert os.fstat(rows._file.fileno()).st_blocks * 512 < 1 << 19, "of 64 MB"
    found = rows.first(64)
    assert found[3:5].equal(x)
    assert float(found.sum()) == 3.0


@pytest.mark.skipif(not SMAPS.exists(), reason="needs /proc/self/smaps")
def test_blocks_of_a_file_leave_memory_when_the_next_is_asked_for(folder):
    n = 1 << 16
    rows = Rows(32, n, torch.float64, in_memory=0)
    rows.write(0, torch.arange(32 * n, dtype=torch.float64).view(32, n))
    whole = rows.first(32)
    assert float(whole.sum()) == 32 * n * (32 * n - 1) / 2
    assert resident(whole) == whole.nbytes
    shown = [(len(part), float(part.sum()), resident(whole)) for part in blocks(whole, 3 * n + 1)]
    assert [length for length, _, _ in shown] == [3] * 10 + [2]
    assert sum(total for _, total, _ in shown) == 32 * n * (32 * n - 1) / 2
    assert resident(whole) == 0
    left = [size for _, _, size in shown]
    assert left == sorted(left, reverse=True)
    assert left[1] == whole.nbytes - 3 * n * 8


def resident(tensor):
    """Bytes of the mapping that begins with the tensor which are in memory."""
    at, found = f"{tensor.data_ptr():x}-", 0
    lines = iter(SMAPS.read_text().splitlines())
    for line in lines:
        if line.startswith(at):
            found = next(int(inner.split()[1]) for inner in lines if inner.startswith("Rss:"))
    return found * 1024


def test_blocks_in_memory_are_views_that_stay():
    x = torch.arange(12.0).view(6, 2)
    parts = list(blocks(x, 4))
    assert torch.cat(parts).equal(x)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert parts[1].data_ptr() == x[2:].data_ptr()
    assert [len(part) for part in blocks(x, 1)] == [1] * 6


def test_a_disk_that_is_too_small_is_named_before_and_during_work(folder, monkeypatch):
    with pytest.raises(StorageError, match=r"are required, .* are free"):
        Rows(1 << 30, 1 << 30, torch.float64, in_memory=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StorageError, match=r"100 rows of 1,000 edges.*TMPDIR"):
            Rows(100, 1000, torch.float32, in_memory=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    rows = Rows(100, 1000, torch.float32, in_memory=0)
    monkeypatch.setattr(os, "pwrite", lambda file, data, start: len(data) - 1)
    with pytest.raises(StorageError, match=r"No space left.*fewer features"):
        rows.write(0, torch.ones(1, 1000))
