"""The loop: many equal one, resume to the same bits, refusals before work starts."""

import json
import sys
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.batches import Batch, Rows
from dictlearn.core.errors import (
    ConfigError,
    CorruptFileError,
    InputError,
    NonFiniteError,
    StorageError,
)
from dictlearn.core.file_lists import LIST_FILE
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.files import load
from dictlearn.dictionaries.kmeans import KMeansConfig
from dictlearn.dictionaries.pca import PCAConfig
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.kernels import fastest
from dictlearn.kernels.fastest import Timings
from dictlearn.kernels.search import exact_top_k, int8_top_k
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from dictlearn.training.gradient import GradientLearner
from dictlearn.training.progress import LiveView
from dictlearn.training.standardize import Standardization, fit_units

CONFIGS = {
    "sae": SAEConfig(n_features=16, resample_steps=(20, 40), resample_window=5, resample_rows=200),
    "codes": CodebookConfig(n_codes=32, k=2, replace_after_steps=10),
    "topk": TopKSAEConfig(n_features=16, k=3),
    "transcoder": TranscoderConfig(n_features=16),
    "pca": PCAConfig(k=2),
}
SHORT = FitConfig(
    steps=60, batch_size=32, standardize_rows=64, dead_after=10, log_every=10, checkpoint_every=20
)


def data(n=500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x @ torch.randn(6, 4, generator=generator)).relu() + 1


def same_bits(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_many_at_once_equal_each_alone_to_the_bit():
    together = fit(CONFIGS, data(), SHORT, progress=False)
    for name, config in CONFIGS.items():
        alone = fit(config, data(), SHORT, progress=False)
        assert same_bits(alone, together[name]), name


@pytest.mark.parametrize("name", [*CONFIGS, "kmeans"])
def test_a_run_in_float64_learns_saves_and_loads_in_float64(tmp_path, name):
    config = KMeansConfig(n_features=8) if name == "kmeans" else CONFIGS[name]
    double = replace(SHORT, dtype="float64")
    wide = fit(config, data(), double, out=tmp_path, progress=False)
    narrow = fit(config, data(), SHORT, progress=False)
    assert {t.dtype for t in wide.state_dict().values()} == {torch.float64}
    assert {t.dtype for t in narrow.state_dict().values()} == {torch.float32}
    assert same_bits(wide, load(tmp_path))
    assert load(tmp_path).x_mean.dtype == torch.float64


class Killed(BaseException):
    """Not an Exception: no handler may mistake it for an error."""


class Dying(TensorActivations):
    """Activations that stop a run as a kill would, at one step."""

    at_step = 45

    def rows(self, seed: int, step: int, n: int) -> Rows:
        if step == self.at_step:
            raise Killed
        return super().rows(seed, step, n)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    whole = fit(CONFIGS, data(), SHORT, progress=False)
    with pytest.raises(Killed):
        fit(CONFIGS, Dying(*data()), SHORT, out=tmp_path, progress=False)
    assert (tmp_path / "checkpoint.safetensors").exists()
    assert not (tmp_path / "sae").exists(), "nothing unfinished may look whole"
    resumed = fit(CONFIGS, data(), SHORT, out=tmp_path, progress=False)
    for name in CONFIGS:
        assert same_bits(whole[name], resumed[name]), name
        assert same_bits(whole[name], load(tmp_path / name)), name
    assert not (tmp_path / "checkpoint.safetensors").exists()
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "train.jsonl").read_text().splitlines()
    ]
    assert steps == [10, 20, 30, 40, 50, 60]


def test_another_runs_checkpoint_is_refused_and_the_difference_named(tmp_path):
    with pytest.raises(Killed):
        fit(CONFIGS, Dying(*data()), SHORT, out=tmp_path, progress=False)
    other = {**CONFIGS, "sae": SAEConfig(n_features=16, l1_coefficient=0.5)}
    with pytest.raises(InputError, match=r"dictionaries\.sae\.config\.l1_coefficient"):
        fit(other, data(), SHORT, out=tmp_path, progress=False)
    fit(other, data(), SHORT, out=tmp_path, overwrite=True, progress=False)


def test_other_data_is_another_run(tmp_path):
    with pytest.raises(Killed):
        fit(CONFIGS, Dying(*data()), SHORT, out=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"activations\.first_batch"):
        fit(CONFIGS, data(seed=5), SHORT, out=tmp_path, progress=False)


def test_a_finished_run_is_not_overwritten_by_accident(tmp_path):
    config = SAEConfig(n_features=16)
    fit(config, data()[0], SHORT, out=tmp_path / "one", progress=False)
    with pytest.raises(InputError, match="overwrite=True"):
        fit(config, data()[0], SHORT, out=tmp_path / "one", progress=False)
    fit({"sae": config}, data()[0], SHORT, out=tmp_path / "many", progress=False)
    with pytest.raises(InputError, match=r"already in .*sae"):
        fit({"sae": config}, data()[0], SHORT, out=tmp_path / "many", progress=False)
    fit(config, data()[0], SHORT, out=tmp_path / "one", overwrite=True, progress=False)


def test_one_config_gives_one_dictionary_saved_in_the_folder_itself(tmp_path):
    sae = fit(SAEConfig(n_features=16), data()[0], SHORT, out=tmp_path, progress=False)
    assert same_bits(sae, load(tmp_path))
    assert sae.sites.is_autoencoder
    assert sae.provenance.seed == 0


@pytest.mark.parametrize("rate", [None, 3e-4])
def test_the_rate_and_the_rows_that_were_used_are_recorded(tmp_path, rate):
    configs = {"sae": SAEConfig(n_features=16), "pca": PCAConfig()}
    run = FitConfig(steps=3, batch_size=32, learning_rate=rate)
    fit(configs, data()[0], run, out=tmp_path, progress=False)
    sae, pca = (load(tmp_path / name).provenance.training for name in configs)
    assert sae["learning_rate"] == (rate or SAEConfig.default_learning_rate)
    assert sae["fit_config"]["learning_rate"] == rate, "the setting, beside what followed from it"
    assert sae["rows"] == pca["rows"] == 96
    assert "learning_rate" not in pca, "it has none"


def test_the_log_has_the_numbers_of_every_dictionary(tmp_path):
    fit(CONFIGS, data(), SHORT, out=tmp_path, progress=False)
    last = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[-1])
    for metric in ("loss", "l0", "fvu", "dead"):
        assert f"sae/{metric}" in last
    assert last["codes/l0"] == 2.0
    assert last["rows_per_second"] > 0


class Poisoned(TensorActivations):
    """Activations in which a number turns to NaN at one step."""

    def rows(self, seed: int, step: int, n: int) -> Rows:
        rows = super().rows(seed, step, n)
        if step == 45:
            rows.at["x"][7, 2] = torch.nan
        return rows


def test_nan_in_activations_stops_training_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(NonFiniteError, match=r"'x', row \d+ of the tensors.*step 46"):
        fit(CONFIGS, Poisoned(*data()), SHORT, out=tmp_path, progress=False)
    whole = fit(CONFIGS, data(), SHORT, progress=False)
    resumed = fit(CONFIGS, data(), SHORT, out=tmp_path, progress=False)
    assert same_bits(whole["sae"], resumed["sae"])


def test_nan_in_tensors_is_found_before_work_starts():
    x = data()[0]
    x[17, 1] = torch.inf
    with pytest.raises(NonFiniteError, match="row 17"):
        fit(SAEConfig(n_features=8), x, SHORT, progress=False)


class TurnsNaN(SAEConfig):
    """An SAE whose loss is finite while its gradient turns NaN at one step."""

    kind = "turns_nan"

    def objective(self):
        plain, seen = super().objective(), iter(range(10**6))

        def objective(fit_pass):
            terms = plain(fit_pass)
            if next(seen) == 39:
                W = fit_pass.dictionary.W_enc
                terms["trap"] = (W - W.detach()).pow(2).sum().sqrt() * 0.0
            return terms

        return objective


def test_a_checkpoint_never_holds_nan(tmp_path):
    """The loss of step 40 is that of before it: the state after it is what would be saved."""
    with pytest.raises(NonFiniteError, match="after step 40"):
        fit(TurnsNaN(n_features=8), data()[0], SHORT, out=tmp_path, progress=False)
    from safetensors import safe_open

    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "20"


def test_overwriting_leaves_nothing_of_the_earlier_run(tmp_path):
    config = SAEConfig(n_features=8)
    fit({"a": config, "b": config}, data()[0], SHORT, out=tmp_path, progress=False)
    with pytest.raises(InputError, match="already in"):
        fit({"c": config}, data()[0], SHORT, out=tmp_path, progress=False)
    fit({"a": config}, data()[0], SHORT, out=tmp_path, overwrite=True, progress=False)
    assert [p.parent.name for p in tmp_path.glob("*/config.json")] == ["a"]


def test_models_of_others_in_the_folder_stay(tmp_path):
    """Beside the names of a run they are left alone; in their place, training does not start."""
    config, rows = SAEConfig(n_features=8), data()[0]
    theirs = {name: tmp_path / name / "config.json" for name in ("gpt", "bert", "sae")}
    for name, path in theirs.items():
        path.parent.mkdir()
        path.write_text(name)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"sae/config\.json is not a file that training wrote"):
            fit({"a": config, "sae": config}, rows, SHORT, out=tmp_path, overwrite=overwrite)
        assert not (tmp_path / "train.jsonl").exists(), "nothing has started"
    for _ in range(2):
        fit({"a": config}, rows, SHORT, out=tmp_path, overwrite=True, progress=False)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    fit({"b": config}, rows, SHORT, out=tmp_path, overwrite=True, progress=False)
    assert {name: path.read_text() for name, path in theirs.items()} == {n: n for n in theirs}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["config.json", "train.jsonl", "checkpoint.safetensors"])
def test_a_users_file_in_place_of_the_runs_own_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises((InputError, CorruptFileError), match=name):
            fit(SAEConfig(n_features=8), data()[0], SHORT, out=tmp_path, overwrite=overwrite)
        assert (tmp_path / name).read_text() == "mine"
        assert {p.name for p in tmp_path.iterdir()} == {name}


def test_a_checkpoint_of_a_version_without_lists_is_continued(tmp_path):
    whole = fit(CONFIGS, data(), SHORT, progress=False)
    with pytest.raises(Killed):
        fit(CONFIGS, Dying(*data()), SHORT, out=tmp_path, progress=False)
    (tmp_path / LIST_FILE).unlink()
    resumed = fit(CONFIGS, data(), SHORT, out=tmp_path, progress=False)
    assert all(same_bits(whole[name], resumed[name]) for name in CONFIGS)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_dead_features_come_back():
    """Resampling must revive features that start where no row can reach them."""

    x = data()[0]
    config = SAEConfig(
        n_features=16, l1_coefficient=0.0, resample_steps=(20,), resample_window=5,
        resample_rows=200,
    )  # fmt: skip
    without = SAEConfig(n_features=16, l1_coefficient=0.0)

    def dead(config):
        class Sunk(type(config)):
            def _build(self, sites, seed):
                sae = super()._build(sites, seed)
                with torch.no_grad():
                    sae.b_enc[:8] = -100.0
                return sae

        sae = fit(Sunk(**config.to_dict()), x, SHORT, progress=False)
        return int((sae.encode(x).amax(dim=0) == 0).sum())

    assert dead(without) == 8
    assert dead(config) == 0


def test_a_terminal_shows_the_numbers_of_every_dictionary(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configs = {name: SAEConfig(n_features=8) for name in ("first", "second")}
    fit(configs, data()[0], FitConfig(steps=4, batch_size=32, standardize_rows=32, log_every=2))
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("training", "4/4", "rows/s", "FVU", "first", "second"))


def test_a_log_has_lines_with_the_numbers_of_every_dictionary(monkeypatch, capsys):
    view = LiveView(["first", "second"], 4, 0, show=True)
    monkeypatch.setattr("dictlearn.progress.EVERY", 0.001)
    numbers = {"loss": 0.5, "l0": 3.0, "fvu": 0.25, "dead": 0.125}
    view.show({"first": numbers, "second": {"loss": 2.0}}, 1_234.0)
    said, end = "", time.monotonic() + 60
    view.advance(2)
    with view:
        while "\n" not in said and time.monotonic() < end:
            said += capsys.readouterr().err
    assert said.startswith("training: 2 of 4 in ")
    first = "first: loss 0.5000, L0 3.0, FVU 0.2500, dead 12.5%"
    assert f" left, 1,234 rows/s; {first}; second: loss 2.0000\n" in said


@pytest.mark.untyped
def test_rows_may_be_an_array():
    x = data()[0]
    run = FitConfig(steps=2, batch_size=32, standardize_rows=32)
    config = SAEConfig(n_features=8)
    arrays, tensors = (fit(config, rows, run, progress=False) for rows in (x.numpy(), x))
    assert torch.equal(arrays.atoms, tensors.atoms)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FitConfig(learning_rate=0.0), "learning_rate"),
        (lambda: FitConfig(learning_rate=-1e-3), "learning_rate"),
        (lambda: FitConfig(steps=0), "steps"),
        (lambda: FitConfig(batch_size=0), "batch_size"),
        (lambda: FitConfig(warmup_fraction=0.9, decay_fraction=0.2), "decay_fraction"),
        (lambda: FitConfig(step=5), "did you mean 'steps'"),
        (lambda: FitConfig(device="gpu9"), "must name a device, such as .*, got 'gpu9'"),
        (lambda: FitConfig(device="cuda:99"), r"can use here \(cpu.*, got 'cuda:99'; name another"),
        (lambda: FitConfig(device="meta"), r"can use here \(cpu.*, got 'meta'; name another"),
        (lambda: FitConfig(dtype="float16"), "dtype must be one of float32, float64"),
        pytest.param(
            lambda: fit(SAEConfig(n_features=8), data()[0], {"steps": 3}),
            r"required FitConfig\(steps=…, …\), got {'steps': 3}",
            marks=pytest.mark.untyped,
        ),
        pytest.param(lambda: fit({"sae": 3}, data()[0]), "SAEConfig", marks=pytest.mark.untyped),
    ],
)
def test_bad_runs_are_refused_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: fit({}, data()[0]),
        pytest.param(lambda: fit(SAEConfig(n_features=4), "rows"), marks=pytest.mark.untyped),
        lambda: fit({"../x": SAEConfig(n_features=4)}, data()[0]),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_an_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder that can be written"):
        fit(SAEConfig(n_features=4), data()[0], SHORT, out=tmp_path / "file", progress=False)


def test_a_full_disk_is_refused_before_training(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("dictlearn.core.files.shutil.disk_usage", lambda path: usage(9, 9, 0))
    with pytest.raises(StorageError, match="are free"):
        fit(SAEConfig(n_features=4), data()[0], SHORT, out=tmp_path, progress=False)


def test_schedules_rise_hold_and_fall():
    config = FitConfig(steps=100, warmup_fraction=0.1, decay_fraction=0.2)
    scales = [config.learning_rate_scale(step) for step in range(100)]
    assert scales[0] == 0.1
    assert scales[9:80] == [1.0] * 71
    assert scales[99] == pytest.approx(0.05)
    assert all(a > b for a, b in pairwise(scales[80:]))


@pytest.fixture
def fast_int8(monkeypatch):
    """A processor that is fast at int8 whatever the size, or taken for one: what is found does not
    depend on it."""
    monkeypatch.setattr(fastest, "INT8_WEIGHTS", 0)
    monkeypatch.setattr(fastest, "MIN_ROWS", 0)
    monkeypatch.setattr(fastest, "timings", lambda: Timings("this one", int8=0.8, int8_search=0.7))


@pytest.mark.usefixtures("fast_int8")
def test_int8_search_learns_as_well_reports_its_recall_and_is_over_at_the_end(tmp_path):
    x = torch.randn(512, 24, generator=torch.Generator().manual_seed(0))
    configs = {"topk": TopKSAEConfig(n_features=96, k=4), "codes": CodebookConfig(n_codes=64, k=2)}
    run = {"steps": 40, "batch_size": 128, "log_every": 20}
    exact = fit(configs, x, FitConfig(**run), progress=False)
    quick = fit(configs, x, FitConfig(**run, int8_search=True), out=tmp_path, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    recalls = [line[f"{name}/recall"] for line in lines for name in configs]
    assert len(recalls) == 4
    assert min(recalls) > 0.95
    for name, dictionary in quick.items():
        assert dictionary.search is exact_top_k
        error = (dictionary(x) - x).pow(2).mean()
        torch.testing.assert_close(error, (exact[name](x) - x).pow(2).mean(), rtol=0.02, atol=0)


def test_recall_is_the_share_of_the_right_features():
    site = Site("h", 32)
    dictionary = TopKSAEConfig(n_features=2000, k=4).build(Sites(site, site), seed=0)
    z = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    assert dictionary.search_recall(z) == 1.0
    with torch.no_grad():  # the same large part everywhere hides what tells features apart
        dictionary.W_enc += 1e3
    dictionary.search_inexactly_()
    z -= z.mean(dim=1, keepdim=True)
    right = dictionary.encode(z) != 0
    found = dictionary.encode_sparse(z).to_dense() != 0
    recall = dictionary.search_recall(z)
    torch.testing.assert_close(recall, (right & found).sum() / right.sum())
    assert recall < 0.95


def test_int8_search_is_refused_where_it_would_be_slower(monkeypatch, tmp_path):
    monkeypatch.setattr(fastest, "timings", lambda: Timings("this one", int8=0.8, int8_search=1.2))
    monkeypatch.setattr(fastest, "MIN_ROWS", 0)
    monkeypatch.setattr(fastest, "INT8_WEIGHTS", 0)
    run = FitConfig(steps=1, batch_size=8, standardize_rows=8, int8_search=True)
    with pytest.raises(ConfigError, match=r"this one\) it takes 1.50 times.*int8_search=False"):
        fit(TopKSAEConfig(n_features=8, k=2), torch.eye(8), run, out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir()), "nothing has started"


@pytest.mark.usefixtures("fast_int8")
def test_a_small_dictionary_keeps_the_exact_search(monkeypatch, caplog):
    monkeypatch.setattr(fastest, "INT8_WEIGHTS", 64)
    run = FitConfig(steps=1, batch_size=8, standardize_rows=8, int8_search=True)
    site, rows = Site("h", 8), Batch(torch.eye(8), torch.eye(8))
    units = Standardization(fit_units(site, [rows.x]), fit_units(site, [rows.x]))
    for n, used in ((8, int8_top_k), (7, exact_top_k)):
        config = TopKSAEConfig(n_features=n, k=2)
        learner = GradientLearner(config, Sites(site, site), run, units, lambda step: rows)
        assert learner.dictionary.search is used
    assert "int8_search is not used for topk_sae(7 features" in caplog.text
    codes = CodebookConfig(n_codes=16, k=2, n_groups=2)  # searches of 4 inputs, 16 codes
    fast = GradientLearner(codes, Sites(site, site), run, units, lambda step: rows)
    assert fast.dictionary.search is int8_top_k
    monkeypatch.setattr(fastest, "INT8_WEIGHTS", 65)
    slow = GradientLearner(codes, Sites(site, site), run, units, lambda step: rows)
    assert slow.dictionary.search is exact_top_k


def test_int8_search_is_refused_where_no_number_of_features_is_fixed():
    with pytest.raises(ConfigError, match=r"'sae'.*has none"):
        fit(SAEConfig(n_features=8), torch.randn(64, 4), FitConfig(steps=1, int8_search=True))


@pytest.mark.parametrize(("start", "told"), [(0, ""), (1500, "continued from step 1,500\n")])
def test_a_continued_run_says_so(start, told, capsys):
    with LiveView(["a"], 2000, start, show=True):
        pass
    said = capsys.readouterr().err
    assert said.startswith(told)
    assert ("continued" in said) is (start > 0)
    with LiveView(["a"], 2000, start, show=False):
        pass
    assert not capsys.readouterr().err
