"""Processes that divide the passes of a model: the same files and dictionaries as one process."""

import json
import runpy
from pathlib import Path

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import CorruptFileError, InputError, ProcessError
from dictlearn.distributed.launching import launch

SCRIPT = str(Path(__file__).with_name("two_readers.py"))
ROUNDING = 1e-10
"""How far sums in float64 may be apart after some steps, whatever their order."""


def read(folder: Path, nproc: int, how: str = "") -> list[dict[str, int]]:
    """The script in `nproc` processes; how many batches each of them read, and for what."""
    folder.mkdir(exist_ok=True)
    launch(nproc, runpy.run_path, SCRIPT, {"out": folder, "how": how}, run_name="__main__")
    return [json.loads((folder / f"read-{rank}.json").read_text()) for rank in range(nproc)]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "dictlearn.files"}


def test_two_processes_read_half_each_and_make_what_one_makes(tmp_path):
    (alone,) = read(tmp_path / "one", 1, "trains")
    halves = read(tmp_path / "two", 2, "trains")
    one, two = (contents(tmp_path / name / "store") for name in ("one", "two"))
    assert one == two, "the manifest with its hashes, and every shard, to the bit"
    assert len(one) > 6
    for name in ("sae", "topk", "pca", "kmeans"):
        a, b = (dl.load(tmp_path / n / "dictionaries" / name) for n in ("one", "two"))
        for key, t in b.state_dict().items():
            torch.testing.assert_close(a.state_dict()[key], t, rtol=0, atol=ROUNDING)
        assert a.provenance.training["left_out"] == b.provenance.training["left_out"]
    for purpose, batches in alone.items():
        assert [half[purpose] for half in halves] == [batches / 2, batches / 2], purpose


def test_a_failure_of_one_process_fails_both_and_leaves_no_files(tmp_path):
    """Both remain together: the same call then succeeds, and makes what one process makes."""
    read(tmp_path / "two", 2, "fails")
    read(tmp_path / "one", 1)
    assert contents(tmp_path / "two" / "store") == contents(tmp_path / "one" / "store")


@pytest.mark.parametrize("how", ["dies", "first dies"])
def test_what_a_killed_process_leaves_is_refused_and_replaced(tmp_path, how):
    with pytest.raises(ProcessError, match="ended from outside"):
        read(tmp_path, 2, how)
    with pytest.raises(CorruptFileError, match="harvest did not finish"):
        dl.ActivationStore.open(tmp_path / "store")
    read(tmp_path, 1)
    read(tmp_path / "afresh", 1)
    assert contents(tmp_path / "store") == contents(tmp_path / "afresh" / "store")
    with pytest.raises(InputError, match="holds a store already"):
        read(tmp_path, 2)
