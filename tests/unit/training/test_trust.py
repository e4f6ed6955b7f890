"""Runs that are damaged, diverge, are interrupted, or are started twice."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dictlearn as dl
from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Rows
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError, StorageError
from dictlearn.core.file_lists import LIST_FILE
from dictlearn.core.locks import locked
from dictlearn.training import output

CONFIGS = {
    "sae": dl.SAEConfig(n_features=16, resample_steps=(20, 40), resample_window=5),
    "topk": dl.TopKSAEConfig(n_features=16, k=3),
    "pca": dl.PCAConfig(k=2),
}
RUN = dl.FitConfig(
    steps=60, batch_size=32, standardize_rows=64, dead_after=10, log_every=10, checkpoint_every=20
)
X = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))


class Diverges(dl.SAEConfig):
    """An SAE whose loss is NaN from one step on."""

    kind = "diverges"
    from_step = 45

    def objective(self):
        plain, steps = super().objective(), iter(range(10**6))

        def objective(fit_pass):
            terms = plain(fit_pass)
            return terms | {
                "trap": next(iter(terms.values()))
                * (torch.nan if next(steps) >= self.from_step else 0)
            }

        return objective


class PlantedNaN(Diverges):
    """The same from the first step."""

    kind = "planted"
    from_step = 0


class Killed(BaseException):
    """Not an Exception: no handler may mistake it for an error."""


class Stopping(TensorActivations):
    """Activations that stop a run at one step, by what `act` does."""

    def __init__(self, x, act, at=45):
        super().__init__(x)
        self.act, self.at = act, at

    def rows(self, seed: int, step: int, n: int) -> Rows:
        if step == self.at:
            self.act()
        return super().rows(seed, step, n)


def kill():
    raise Killed


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def killed_run(folder, configs=CONFIGS):
    with pytest.raises(Killed):
        dl.fit(configs, Stopping(X, kill), RUN, out=folder, progress=False)


def log_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


# Divergence


def test_who_diverges_stops_alone(tmp_path, caplog):
    four = {**CONFIGS, "nan": PlantedNaN(n_features=16), "late": Diverges(n_features=16)}
    found = dl.fit(four, X, RUN, out=tmp_path, progress=False)
    alone = dl.fit(CONFIGS, X, RUN, progress=False)
    assert found.keys() == CONFIGS.keys()
    assert all(same(found[name], alone[name]) for name in CONFIGS)
    told = {name for line in log_of(tmp_path) for name in line.get("stopped", ())}
    assert told == {"nan", "late"}
    assert "'late' diverged: its loss is nan at step 50" in caplog.text
    assert not (tmp_path / "nan").exists()
    assert not (tmp_path / "late").exists()
    assert not (tmp_path / "nan.stopped").exists(), "it never had a state worth keeping"
    kept = dl.load(tmp_path / "late.stopped", kinds=[Diverges])
    at_40 = replace(RUN, steps=60)
    assert torch.isfinite(kept.atoms).all()
    assert at_40.steps == 60
    reasons = json.loads((tmp_path / "stopped.json").read_text())["stopped"]
    assert "its state of step 40 is kept" in reasons["late"]


def test_a_run_that_was_killed_knows_who_had_stopped(tmp_path):
    both = {**CONFIGS, "nan": PlantedNaN(n_features=16)}
    whole = dl.fit(both, X, RUN, progress=False)
    killed_run(tmp_path, both)
    resumed = dl.fit(both, X, RUN, out=tmp_path, progress=False)
    assert resumed.keys() == CONFIGS.keys()
    assert all(same(resumed[name], whole[name]) for name in CONFIGS)
    assert "'nan' diverged" in json.loads((tmp_path / "stopped.json").read_text())["stopped"]["nan"]


def test_where_all_diverge_the_reason_is_raised_and_the_checkpoint_stays(tmp_path):
    config = Diverges(n_features=16)
    with pytest.raises(NonFiniteError, match="'dictionary' diverged: its loss is nan at step 50"):
        dl.fit(config, X, RUN, out=tmp_path, progress=False)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "40"
    assert not (tmp_path / "config.json").exists()


def test_a_run_continues_with_fewer_dictionaries(tmp_path):
    killed_run(tmp_path)
    fewer = {name: CONFIGS[name] for name in ("sae", "pca")}
    resumed = dl.fit(fewer, X, RUN, out=tmp_path, progress=False)
    whole = dl.fit(fewer, X, RUN, progress=False)
    assert all(same(resumed[name], whole[name]) for name in fewer)
    killed_run(tmp_path / "other", fewer)
    with pytest.raises(InputError, match=r"differs in dictionaries\.topk"):
        dl.fit(CONFIGS, X, RUN, out=tmp_path / "other", progress=False)


# Damage


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path):
    killed_run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-100] ^= 0x20
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk would
    with pytest.raises(CorruptFileError, match=r"checkpoint\.safetensors: was altered or damaged"):
        dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)


def test_a_checkpoint_whose_step_is_not_that_of_its_learners_is_refused(tmp_path):
    killed_run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as file:
        told = file.metadata() | {"step": "20"}
    save_file(load_file(path), path, told)
    (tmp_path / LIST_FILE).unlink()  # as one of a version without hashes
    with pytest.raises(CorruptFileError, match="is of step 40, and not 20"):
        dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"{\n", b'{"step": "x"}\n', b"[" * 100_000])
def test_a_damaged_line_of_the_log_is_dropped(tmp_path, damage):
    killed_run(tmp_path)
    log = tmp_path / "train.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + damage + b"\n" + b"".join(lines[1:]))
    resumed = dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)
    assert [line["step"] for line in log_of(tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert same(resumed["sae"], dl.fit(CONFIGS["sae"], X, RUN, progress=False))


def test_a_run_that_is_killed_while_it_writes_its_dictionaries_goes_on(tmp_path):
    armed: list[Path] = []

    def hook(event, arguments):
        if armed and event == "os.rename" and Path(arguments[1]) == armed[0]:
            armed.clear()
            raise Killed

    sys.addaudithook(hook)  # it stays, and does nothing once it is disarmed
    short = replace(RUN, steps=10, log_every=5)  # over before its first checkpoint is due
    whole = dl.fit(CONFIGS, X, short, progress=False)
    armed.append(tmp_path / "topk" / "config.json")
    with pytest.raises(Killed):
        dl.fit(CONFIGS, X, short, out=tmp_path, progress=False)
    assert (tmp_path / "sae" / "config.json").exists()
    resumed = dl.fit(CONFIGS, X, short, out=tmp_path, progress=False)
    assert all(same(resumed[name], whole[name]) for name in CONFIGS)
    assert [line["step"] for line in log_of(tmp_path)] == [5, 10]
    for name in ("sae", "topk"):
        final = dl.load(tmp_path / name).provenance.training["final"]
        assert final == whole[name].provenance.training["final"]
        assert final["l0"] == log_of(tmp_path)[-1][f"{name}/l0"]
        assert "loss/squared_error" in final


def test_the_rows_that_a_kind_keeps_survive_a_kill(tmp_path):
    configs = {
        "kmeans": dl.KMeansConfig(n_features=4),
        "random": dl.RandomConfig(n_features=8, k=2),
    }
    killed_run(tmp_path, configs)
    whole = dl.fit(configs, X, RUN, progress=False)
    resumed = dl.fit(configs, X, RUN, out=tmp_path, progress=False)
    assert all(same(resumed[name], whole[name]) for name in configs)


def test_half_written_files_of_a_killed_run_go_when_it_goes_on(tmp_path):
    killed_run(tmp_path)
    mark = json.loads((tmp_path / LIST_FILE).read_text())["mark"]
    (tmp_path / f".checkpoint.safetensors.abc.{mark}.part").write_text("half")
    (tmp_path / f".dictlearn.files.abc.{mark}.part").write_text("half")
    (tmp_path / ".theirs.part").write_text("mine")
    dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)
    assert [p.name for p in tmp_path.rglob(".*")] == [".theirs.part"]


def test_room_is_asked_for_what_is_still_to_be_written(tmp_path, monkeypatch):
    killed_run(tmp_path)
    asked = []
    monkeypatch.setattr(output, "writable_folder", lambda path, n=0: asked.append(n))
    dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)
    dl.fit(CONFIGS, X, RUN, out=tmp_path / "new", progress=False)
    assert 0 < asked[0] < asked[1]


# Another process, and signals


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    def second():
        code = "import sys; from pathlib import Path\nfrom dictlearn.core.locks import locked\n"
        code += "with locked(Path(sys.argv[1])): pass"
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
        )
        assert f"in use by process {os.getpid()}" in done.stderr

    dl.fit(CONFIGS["sae"], Stopping(X, second), RUN, out=tmp_path, progress=False)
    with locked(tmp_path):
        assert len(log_of(tmp_path)) == 6


def test_ctrl_c_ends_a_run_when_its_state_is_saved(tmp_path):
    ctrl_c = Stopping(X, lambda: signal.raise_signal(signal.SIGINT), at=32)
    with pytest.raises(KeyboardInterrupt):
        dl.fit(CONFIGS, ctrl_c, RUN, out=tmp_path, progress=False)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "33"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = dl.fit(CONFIGS, X, RUN, out=tmp_path, progress=False)
    whole = dl.fit(CONFIGS, X, RUN, progress=False)
    assert all(same(resumed[name], whole[name]) for name in CONFIGS)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("nproc", [1, 2])
def test_a_command_that_is_ended_can_be_continued(tmp_path, number, status, nproc):
    model, store = "builtin:stories", tmp_path / "store"
    m = dl.load_model(model)
    tokens = dl.load_tokens(model, m, n_tokens=2000)
    dl.harvest(m, tokens, dl.hook_sites(m, "blocks.0.hook_mlp_out"), store, progress=False)
    command = [
        sys.executable, "-m", "dictlearn", "train", store, "--kind", "topk_sae",
        "--n-features", "64",
        "--k", "4", "--steps", "100000", "--batch-size", "64", "--nproc", str(nproc),
        "--out", tmp_path / "run",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = tmp_path / "run" / "train.jsonl"
    end = time.monotonic() + 240
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    if number == signal.SIGINT:  # a terminal tells all processes
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert "the same command continues" in " ".join(said.split())
    with safe_open(tmp_path / "run" / "checkpoint.safetensors", framework="pt") as file:
        assert int(file.metadata()["step"]) > 0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"checkpoint.safetensors", "train.jsonl", LIST_FILE}


def test_a_writer_waits_for_a_folder_and_then_gives_up(tmp_path, monkeypatch):
    monkeypatch.setattr("dictlearn.core.own_files._WAIT", 0.1)
    held = Path(__file__).parents[1] / "core" / "test_locks.py"
    code = held.read_text().split('HOLDER = """')[1].split('"""')[0]
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match="in use by process"):
            dl.save(dl.PCAConfig(k=2).build(TensorActivations(X).sites[0]), tmp_path)
    finally:
        holder.communicate()
