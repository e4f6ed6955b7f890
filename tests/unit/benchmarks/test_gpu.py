"""The benchmark on a GPU: a trial of it on the CPU, and where there is no GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.peers.ours import OURS
from benchmarks.peers.page import Section, page, sections_of
from benchmarks.peers.peer import Kind, Peer

CHECKOUT = Path(__file__).parents[3]


class Two:
    """dictlearn, and a library whose every dictionary fails."""

    absent = {"another": "not installed"}  # noqa: RUF012

    def offering(self, kind):
        def fails(plan, first):
            raise ValueError("no such kind")

        return iter((OURS, Peer("failing", "failing", {kind: fails})))

    def versions(self):
        return {"dictlearn": "0"}


def test_a_trial_on_the_cpu_measures_everything(monkeypatch, tmp_path):
    tiny = replace(
        gpu.SMALL, width=8, n_features=32, n_codes=32, batch=16, k=2, l0=4, n_chosen=2, rounds=1,
        harvest_tokens=512, run_batch=64, run_features=16, harvest_rounds=1, eval_sequences=2,
    )  # fmt: skip
    monkeypatch.setattr(gpu, "SMALL", tiny)
    monkeypatch.setattr(gpu, "KINDS", (Kind.TOPK_SAE, Kind.RELU_TRANSCODER))
    monkeypatch.setattr(gpu, "Contenders", Two)
    out = tmp_path / "gpu.md"
    gpu.main(["--device", "cpu", "--small", "--out", str(out)])
    text = out.read_text("utf-8")
    training, reading = sections_of(text)
    for kind in gpu.KINDS:
        assert f"**{kind.value}: 32 of width 8" in training.body
    assert training.body.count("| dictlearn |") == len(gpu.KINDS)
    assert training.body.count("failing failed: ValueError: no such kind") == len(gpu.KINDS)
    assert "evaluation of 4 dictionaries" in reading.body
    assert "left out: another (not installed)" in text
    assert "no GPU: a trial on the CPU" in text


def test_without_a_gpu_nothing_is_measured_and_no_result_is_lost(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "gpu.md"
    gpu.main(["--out", str(out)])
    assert out.read_text("utf-8") == gpu.NOTHING
    assert "nothing was measured" in capsys.readouterr().out
    measured = page("# Speed", [Section("One training step", "| a |")])
    out.write_text(measured, encoding="utf-8")
    gpu.main(["--out", str(out)])
    assert out.read_text("utf-8") == measured


def test_the_page_in_the_repository_has_results_or_says_that_there_are_none():
    text = (CHECKOUT / gpu.PAGE).read_text("utf-8")
    assert text == gpu.NOTHING or sections_of(text)


@pytest.mark.gpu
def test_the_peak_of_memory_is_what_was_allocated_at_once():
    device = gpu.Device(torch.device("cuda"))

    def work():
        kept = torch.empty(2**20, device="cuda")
        del kept
        torch.empty(2**18, device="cuda")

    assert device.peak(work) == 4 * 2**20


def test_memory_is_not_counted_on_a_cpu():
    done = []
    assert gpu.Device(torch.device("cpu")).peak(lambda: done.append(1)) is None
    assert done == [1]
    assert gpu.shown(None) == "—"
    assert gpu.shown(2.5e9) == "2.50"
