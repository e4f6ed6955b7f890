"""Two processes are one: the same dictionaries, the same files, and no error that hangs."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import dictlearn as dl
from dictlearn.activations.store import write_store
from dictlearn.cli import main
from dictlearn.config_files import read_config_file
from dictlearn.core.batches import Rows
from dictlearn.core.errors import ConfigError, InputError, NonFiniteError, ProcessError
from dictlearn.core.files import read_json, sha256, write_json
from dictlearn.core.provenance import Provenance
from dictlearn.distributed.launching import launch

CONFIGS = {
    "sae": dl.SAEConfig(n_features=32, l1_coefficient=3.0, resample_steps=(15, 25),
                        resample_window=2, resample_rows=128),
    "topk": dl.TopKSAEConfig(n_features=64, k=2, auxk_coefficient=1.0),
    "batchtopk": dl.BatchTopKSAEConfig(n_features=64, k=2, auxk_coefficient=1.0),
    "jumprelu": dl.JumpReLUSAEConfig(n_features=32),
    "gated": dl.GatedSAEConfig(n_features=32),
    "codes": dl.CodebookConfig(n_codes=64, k=2, n_groups=2, replace_after_steps=5),
    "stages": dl.ResidualCodebookConfig(n_codes=32, n_stages=2, replace_after_steps=5),
    "transcoder": dl.TranscoderConfig(n_features=32),
    "skip": dl.TopKTranscoderConfig(n_features=32, k=4, linear_skip=True),
    "pca": dl.PCAConfig(k=3),
    "kmeans": dl.KMeansConfig(n_features=8),
}  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dl.__file__).parents[1])}
DYING = str(Path(__file__).with_name("dying_rank.py"))
HELD = str(Path(__file__).with_name("held_run.py"))
RUN = dl.FitConfig(
    steps=30, batch_size=64, standardize_rows=128, dead_after=3, log_every=5, learning_rate=3e-2,
    dtype="float64",
)  # fmt: skip
ROUNDING = 1e-10
"""How far sums in float64 may be apart after some steps, whatever their order: far more than they
are on any processor, far less than anything that differs but for rounding."""


def data(n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal size, so that a mean of ratios is not a ratio of means."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 12, generator=generator) * torch.rand(n, 1, generator=generator).exp()
    return x, (x @ torch.randn(12, 8, generator=generator)).relu() + 1


def log_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "seconds" not in k and "second" not in k}
        for line in lines
    ]


def worst_difference(a: dl.FeatureDictionary, b: dl.FeatureDictionary) -> float:
    other = b.state_dict()
    return max(float((t - other[k]).abs().max()) for k, t in a.state_dict().items())


def test_ranks_put_together_what_each_has():
    launch(2, runpy.run_path, str(Path(__file__).with_name("two_ranks.py")), run_name="__main__")


def test_every_kind_learns_in_two_processes_what_it_learns_in_one(tmp_path):
    one = dl.fit(CONFIGS, data(), RUN, out=tmp_path / "one", progress=False)
    launch(2, dl.fit, CONFIGS, data(), RUN, out=tmp_path / "two", progress=False)
    for name, dictionary in one.items():
        assert worst_difference(dictionary, dl.load(tmp_path / "two" / name)) <= ROUNDING, name
    logs = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert [line["step"] for line in logs[1]] == [5, 10, 15, 20, 25, 30]
    for alone, together in zip(*logs, strict=True):
        assert together == pytest.approx(alone, rel=ROUNDING, abs=ROUNDING)
    for name in ("topk", "batchtopk"):
        assert any(line.get(f"{name}/loss/auxk", 0) > 0 for line in logs[0]), "the test sees AuxK"
    never = {
        "sae": replace(CONFIGS["sae"], resample_steps=()),
        "codes": replace(CONFIGS["codes"], replace_after_steps=0),
        "stages": replace(CONFIGS["stages"], replace_after_steps=0),
    }
    for name, dictionary in dl.fit(never, data(), RUN, progress=False).items():
        assert worst_difference(dictionary, one[name]) > 1e-2, (
            f"the test sees no resampling of {name}"
        )


LINEAR = {name: config for name, config in CONFIGS.items() if name not in ("codes", "stages")}


def test_features_divided_between_two_processes_learn_what_they_learn_in_one(tmp_path):
    run = replace(RUN, batch_size=63, shard_features=True)  # rows are not divided
    one = dl.fit(LINEAR, data(), run, out=tmp_path / "one", progress=False)
    launch(2, dl.fit, LINEAR, data(), run, out=tmp_path / "two", progress=False)
    for name, dictionary in one.items():
        assert worst_difference(dictionary, dl.load(tmp_path / "two" / name)) <= ROUNDING, name
    for alone, together in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert together == pytest.approx(alone, rel=ROUNDING, abs=ROUNDING)
    unclipped = dl.fit(LINEAR, data(), replace(run, max_gradient_norm=None), progress=False)
    assert worst_difference(unclipped["sae"], one["sae"]) > 1e-2, "the test sees no clipping"


@pytest.mark.parametrize(
    "config", [CONFIGS["codes"], dl.SAEConfig(n_features=33)], ids=["codebook", "odd"]
)
def test_what_cannot_be_divided_is_refused(config):
    run = replace(RUN, shard_features=True)
    with pytest.raises(ConfigError, match=r"shard_features needs .* (128|33) features"):
        launch(2, dl.fit, config, data()[0], run, progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("activations") / "store"
    x = data()[0]
    site = dl.Site("h", x.shape[1])
    write_store(
        folder, [Rows({"h": x})], sites=[dl.Sites(site, site)], n_rows=len(x),
        dtype=x.dtype, provenance=Provenance(), tokens={},
    )  # fmt: skip
    return folder


def last_words(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def train(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["dictlearn", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    return exit_info.value.code or 0


RECIPE = """
[fit]
steps = 100
batch_size = 64
standardize_rows = 128
dtype = "float64"
checkpoint_every = 20

[dictionaries.topk]
kind = "topk_sae"
n_features = 64
k = 4

[dictionaries.codes]
kind = "codebook"
n_codes = 32
k = 2
replace_after_steps = 20
"""


def test_a_killed_run_of_two_processes_resumes(monkeypatch, tmp_path, store):
    """To the same bits in two processes again, and to rounding in one."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    command = [store, "--recipe", tmp_path / "recipe.toml"]
    killed, checkpoint = tmp_path / "killed", tmp_path / "killed" / "checkpoint.safetensors"
    with subprocess.Popen(
        [sys.executable, HELD, store, tmp_path / "recipe.toml", killed],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as `nohup … &` does
    ) as process:  # fmt: skip
        told = []
        while told.count("held\n") < 2:
            told.append(process.stdout.readline())
            assert told[-1], f"the run ended before it was killed: {told}"
        process.kill()
        process.stdout.read()  # ends when the last process does that could write there
    assert [line["step"] for line in log_of(killed)] == [50]
    with safe_open(checkpoint, framework="pt") as file:
        assert file.metadata()["step"] == "40"
    assert not (killed / "topk").exists(), "nothing unfinished may look whole"
    shutil.copytree(killed, tmp_path / "alone")

    assert train(monkeypatch, *command, "--out", killed, "--nproc", 2) == 0
    assert train(monkeypatch, *command, "--out", tmp_path / "whole", "--nproc", 2) == 0
    assert train(monkeypatch, *command, "--out", tmp_path / "alone") == 0
    for name in ("topk", "codes"):
        whole = dl.load(tmp_path / "whole" / name)
        assert worst_difference(dl.load(killed / name), whole) == 0.0
        assert worst_difference(dl.load(tmp_path / "alone" / name), whole) <= ROUNDING
    assert not checkpoint.exists()
    assert log_of(killed) == log_of(tmp_path / "whole")


def test_mistakes_are_told_once_and_at_once(monkeypatch, capsys, tmp_path, store):
    command = [store, "--kind", "pca", "--k", 2, "--steps", 2, "--out", tmp_path]
    assert train(monkeypatch, *command, "--nproc", 0) == 2
    assert "at least 1 process" in last_words(capsys)
    assert train(monkeypatch, *command, "--nproc", 2, "--batch-size", 33) == 2
    assert "divisible by their number (2), got 33" in last_words(capsys)
    assert not list(tmp_path.iterdir()), "nothing has started"
    assert train(monkeypatch, *command, "--batch-size", 32) == 0
    capsys.readouterr()
    assert train(monkeypatch, *command, "--nproc", 2, "--batch-size", 32) == 2
    assert last_words(capsys).count("a trained dictionary is already in") == 1
    monkeypatch.setattr("os.environ", os.environ | {
        "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
    })  # fmt: skip
    with pytest.raises(InputError, match="torchrun"):
        launch(2, print)


def test_nan_in_the_rows_of_one_process_ends_both(tmp_path, store):
    """Row 17 of the file belongs to one process only, and the other must not wait for it."""
    run = replace(RUN, batch_size=8, standardize_rows=8, steps=125)
    with pytest.raises(NonFiniteError, match=r"'h', shard_00000.safetensors, row 17;"):
        launch(2, dl.fit, CONFIGS["topk"], spoilt(store, tmp_path), run, progress=False)


def spoilt(store: Path, folder: Path) -> dl.ActivationStore:
    """A copy of the store with NaN in row 17, which is met once in the first 125 batches of 8."""
    shutil.copytree(store, folder / "spoilt")
    (shard,) = (folder / "spoilt").glob("shard_*")
    with shard.open("r+b") as file:
        file.seek(-(1000 - 17) * 12 * 4, os.SEEK_END)
        file.write(torch.tensor(torch.nan).numpy().tobytes())
    manifest = folder / "spoilt" / "manifest.json"  # as if it had been harvested like this
    data = read_json(manifest)
    data["shards"][0]["sha256"] = sha256(shard)
    write_json(manifest, data)
    return dl.ActivationStore.open(folder / "spoilt")


def test_a_run_continues_however_its_features_are_divided(tmp_path, store):
    """From one process to two with half the features each, and the other way round."""
    run = replace(RUN, batch_size=8, standardize_rows=8, steps=125, checkpoint_every=5)
    sharded = replace(run, shard_features=True)
    good, bad = dl.ActivationStore.open(store), spoilt(store, tmp_path)
    configs = {name: CONFIGS[name] for name in ("sae", "topk")}
    whole = dl.fit(configs, good, run, progress=False)
    with pytest.raises(NonFiniteError):
        dl.fit(configs, bad, run, out=tmp_path / "a", progress=False)
    with pytest.raises(NonFiniteError):
        launch(2, dl.fit, configs, bad, sharded, out=tmp_path / "b", progress=False)
    steps = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
            steps.append(int(file.metadata()["step"]))
            assert file.get_slice("topk//adam/W_enc/exp_avg").get_shape() == [12, 64]
    assert steps[0] == steps[1] > 0
    launch(2, dl.fit, configs, good, sharded, out=tmp_path / "a", progress=False)
    dl.fit(configs, good, run, out=tmp_path / "b", progress=False)
    for name, dictionary in whole.items():
        assert worst_difference(dl.load(tmp_path / "a" / name), dictionary) <= ROUNDING
        assert worst_difference(dl.load(tmp_path / "b" / name), dictionary) <= ROUNDING


def test_a_process_that_fails_or_dies_ends_the_others():
    """At once: who waited for another would do so for half an hour."""
    with pytest.raises(ProcessError, match="ended"):
        launch(2, runpy.run_path, DYING, {"how": "dies"}, run_name="__main__")
    with pytest.raises(ProcessError, match=r"(?s)process 1 of this run failed.*KeyError: 'lost'"):
        launch(2, runpy.run_path, DYING, {"how": "fails"}, run_name="__main__")
    told = r"process \d differs from that of \d in .*fit_config\.seed"
    with pytest.raises(InputError, match=told):
        launch(2, runpy.run_path, DYING, {"how": "calls otherwise"}, run_name="__main__")


def test_torchrun_starts_the_same_run(tmp_path, store):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("steps = 100", "steps = 20"))
    file = read_config_file(tmp_path / "recipe.toml")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "dictlearn", "train", store, "--recipe", tmp_path / "recipe.toml",
        "--out", tmp_path / "two",
    ]  # fmt: skip
    for _ in range(3):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        # torchrun looks for a free port and lets go of it before it is used: another may take it.
        if "EADDRINUSE" not in done.stderr and "address already in use" not in done.stderr.lower():
            break
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("log: ") == 1, "one process speaks for all"
    one = dl.fit(file.configs, dl.ActivationStore.open(store), file.fit, progress=False)
    for name, dictionary in one.items():
        assert worst_difference(dl.load(tmp_path / "two" / name), dictionary) <= ROUNDING
