"""The whole path on real models: text, tokens, activations, dictionaries, records, report."""

import json

import pytest
import torch

import dictlearn as dl
from dictlearn.activations.store import ActivationStore
from dictlearn.cli import main
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError, StorageError
from dictlearn.demo import DemoSize, demo_study
from dictlearn.metrics.bits import REPORTED
from dictlearn.studies.run import run_study

TINY = DemoSize(train_tokens=20_000, held_out_tokens=3_000, steps=120, batch_size=256,
                n_features=256, n_cards=2, concept_tokens=6_000)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return dl.load_model("builtin:stories")


@pytest.fixture(scope="module")
def tokens(model):
    return dl.load_tokens("builtin:stories", model, n_tokens=4_000)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    return run_study(demo_study(size=TINY), out), out


def test_demo_oracles(demo):
    frame = demo[0].to_pandas()
    for exact in ("neurons", "identity"):
        assert frame.loc[exact, "loss_recovered_zero"] == pytest.approx(1, abs=1e-4)
        assert frame.loc[exact, "fraction_variance_unexplained"] <= 1e-6
    assert frame.loc["mean", "explained_variance"] == pytest.approx(0, abs=0.02)
    assert frame.loc["mean", "loss_recovered_mean"] == pytest.approx(0, abs=0.02)
    randoms = [name for name in frame.index if name.startswith("random_k")]
    assert frame.loc[randoms, "l0"].tolist() == [int(name[8:]) for name in randoms]


def test_demo_results_follow_the_documented_schema(demo):
    data = json.loads((demo[1] / "results.json").read_text())
    assert data["format"] == 2
    assert data["model"] == "builtin:stories"
    assert {"hash", "n_tokens"} <= data["tokens"].keys()
    for entry in data["dictionaries"].values():
        assert {"kind", "sites", "n_features", "seed", "metrics"} <= entry.keys()
        assert list(entry["metrics"]) == [metric.name for metric in REPORTED]
        assert all("value" in m for m in entry["metrics"].values())
    report = (demo[1] / "report.html").read_text()
    assert all(name in report for name in data["dictionaries"])


def test_demo_dictionaries_carry_their_origin(demo, model):
    sae = dl.load(demo[1] / "dictionaries" / "sae")
    assert sae.provenance.model == "builtin:stories"
    assert sae.provenance.model_hash
    assert sae.provenance.split == "train"


def test_a_store_holds_what_the_model_computes(model, tokens, tmp_path):
    sites = dl.mlp_sites(model, 2)
    store = dl.harvest(model, tokens, sites, tmp_path / "store", progress=False)
    assert store.n_rows == tokens.n_tokens
    x, y = (store.rows(0, 0, 512).at[hook] for hook in sites.hooks)
    neurons = dl.fit(dl.NeuronsConfig(), ActivationStore.open(tmp_path / "store"), progress=False)
    torch.testing.assert_close(neurons(x), y, atol=1e-4, rtol=1e-4)


def test_live_activations_are_the_same_rows_as_a_store(model, tokens, tmp_path):
    sites = dl.hook_sites(model, "blocks.0.hook_mlp_out")
    live = dl.harvest(model, tokens, sites)
    store = dl.harvest(model, tokens, sites, tmp_path / "store", progress=False)
    n = tokens.n_tokens
    a, b = (s.rows(0, 0, n).at["blocks.0.hook_mlp_out"] for s in (live, store))
    order_a, order_b = a[:, 0].sort().values, b[:, 0].sort().values
    torch.testing.assert_close(order_a, order_b, atol=1e-5, rtol=1e-5)


def test_training_straight_from_the_model(model, tokens):
    live = dl.harvest(model, tokens, dl.mlp_sites(model, 1))
    config = dl.FitConfig(steps=20, batch_size=128, standardize_rows=256)
    transcoder = dl.fit(dl.TranscoderConfig(n_features=64), live, config, progress=False)
    assert not transcoder.sites.is_autoencoder
    assert transcoder.provenance.text_hash == tokens.hash


def test_several_sites_in_one_pass_and_one_chosen(model, tokens, tmp_path):
    first, second = dl.mlp_sites(model, 0), dl.mlp_sites(model, 3)
    store = dl.harvest(model, tokens, [first, second], tmp_path / "store", progress=False)
    config = dl.FitConfig(steps=5, batch_size=64, standardize_rows=64)
    with pytest.raises(InputError, match="select"):
        dl.fit(dl.SAEConfig(n_features=16), store, config, progress=False)
    sae = dl.fit(dl.SAEConfig(n_features=16), store.select(second), config, progress=False)
    assert sae.sites == second.at_target()


def test_harvest_refuses_bad_input_before_work_starts(model, tokens, tmp_path):
    sites = dl.mlp_sites(model, 1)
    wrong = dl.Sites(dl.Site("blocks.1.mlp.hook_inn", 128), sites.target)
    with pytest.raises(InputError, match="did you mean"):
        dl.harvest(model, tokens, wrong, tmp_path / "a")
    with pytest.raises(InputError, match="dtype"):
        dl.harvest(model, tokens, sites, tmp_path / "a", dtype="float99")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="folder"):
        dl.harvest(model, tokens, sites, tmp_path / "file")


def test_a_harvest_that_fails_leaves_nothing(model, tokens, tmp_path):
    """No store, and no hook of its own at the model, whose passes would end there."""
    sites = dl.hook_sites(model, "blocks.0.hook_mlp_out")
    calls = []

    def poisoned(activation, hook):
        calls.append(1)
        return activation * torch.nan if len(calls) > 4 else None

    for out in (tmp_path / "store", None):
        calls.clear()
        with (
            model.hooks(fwd_hooks=[("blocks.0.mlp.hook_in", poisoned)]),
            pytest.raises(NonFiniteError),
        ):
            dl.harvest(model, tokens, sites, out, progress=False).rows(0, 0, 8)
        assert model(tokens.ids[:1]).isfinite().all(), "a whole pass"
        assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not (tmp_path / "store" / "manifest.json").exists()


def cli(monkeypatch, *arguments) -> None:
    monkeypatch.setattr("sys.argv", ["dictlearn", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code in (0, None), "the command failed"


def failing(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr("sys.argv", ["dictlearn", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    return " ".join(capsys.readouterr().err.split())


RECIPE = """
[fit]
steps = 15
batch_size = 128
standardize_rows = 256

[dictionaries.codes]
kind = "codebook"
n_codes = 64
k = 4

[dictionaries.sae]
kind = "sae"
n_features = 64
"""


def run_commands(monkeypatch, capsys, folder, model, text, n_tokens):
    """harvest, train (one, then many), evaluate, compare; what evaluate printed."""
    store, one, many = folder / "store", folder / "topk_sae", folder / "many"
    source = ["--model", model, "--text", text]
    cli(monkeypatch, "harvest", *source, "--mlp", 1, "--tokens", n_tokens, "--out", store)
    train = ["--steps", 15, "--batch-size", 128]
    cli(monkeypatch, "train", store, "--kind", "topk_sae", "--n-features", 64, "--k=4", *train,
        "--out", one)  # fmt: skip
    (folder / "recipe.toml").write_text(RECIPE)
    cli(monkeypatch, "train", store, "--config", folder / "recipe.toml", "--out", many)
    capsys.readouterr()
    measure = ["--tokens", 3000, "--whole-documents", *source]
    cli(monkeypatch, "evaluate", one, "--out", folder / "run1", *measure)
    cli(monkeypatch, "evaluate", many, "--out", folder / "run2", *measure)
    printed = capsys.readouterr().out
    cli(monkeypatch, "compare", folder / "run1", folder / "run2", "--out", folder / "both.html")
    cli(monkeypatch, "compare", folder / "run1", "--out", folder / "alone")
    assert (folder / "alone" / "report.html").exists()
    table = capsys.readouterr().out
    assert all(name in table for name in ("topk_sae", "codes", "sae"))
    assert (folder / "both.html").exists()
    return printed


def test_the_commands_on_the_builtin_model(monkeypatch, capsys, tmp_path):
    builtin = "builtin:stories"
    printed = run_commands(monkeypatch, capsys, tmp_path, builtin, builtin, 4000)
    assert "codes" in printed


def test_the_commands_on_a_llama_folder(monkeypatch, capsys, tmp_path, shared):
    """A local Hugging Face folder and real text; its clean loss is the published one."""
    folder, text = shared("models/stories15M"), shared("text/stories_real.jsonl")
    run_commands(monkeypatch, capsys, tmp_path, folder, text, 4000)
    results = json.loads((tmp_path / "run2" / "results.json").read_text())
    clean = results["dictionaries"]["sae"]["metrics"]["cross_entropy_clean"]["value"]
    assert clean == pytest.approx(1.785, abs=0.1), "other stories than the table's"
    assert results["model"] == "stories15M"


def test_listing_commands(monkeypatch, capsys):
    cli(monkeypatch, "models")
    cli(monkeypatch, "kinds")
    cli(monkeypatch, "kinds", "codebook")
    printed = capsys.readouterr().out
    assert "builtin:stories" in printed
    assert "transcoder" in printed
    assert "n_groups" in printed


def test_mistakes_on_the_command_line_are_explained(monkeypatch, capsys, tmp_path):
    out = ["--out", tmp_path / "x"]
    assert "--hook NAME or --mlp LAYER" in failing(monkeypatch, capsys, "harvest", *out)
    assert "did you mean" in failing(
        monkeypatch, capsys, "harvest", "--hook", "blocks.1.mlp.hook_ot", "--tokens", 2000, *out
    )
    assert "manifest" in failing(monkeypatch, capsys, "train", tmp_path, "--kind", "sae",
                                 "--n-features", 8, *out)  # fmt: skip
    assert "did you mean '--n-features'" in failing(
        monkeypatch, capsys, "train", tmp_path, "--kind", "sae", "--n-feature", 8, *out
    )
    assert "did you mean 'topk_sae'" in failing(
        monkeypatch, capsys, "train", tmp_path, "--kind", "topksae", *out
    )
    assert "--n-features" in failing(monkeypatch, capsys, "train", tmp_path, "--kind", "sae", *out)
    assert "folder" in failing(monkeypatch, capsys, "evaluate", tmp_path / "none", *out)
    assert not (tmp_path / "x").exists(), "nothing is left of a refused command"


def test_runs_on_other_tokens_are_not_comparable(model, tmp_path):
    identity = {"identity": dl.IdentityConfig().build(dl.mlp_sites(model, 0).at_target())}
    from dictlearn.comparison.runs import combine
    from dictlearn.core.errors import ProvenanceError

    runs = {}
    for n in (2_000, 3_000):
        held_out = dl.load_tokens("builtin:stories", model, split="held_out", n_tokens=n)
        runs[str(n)] = dl.evaluate(identity, model, held_out, progress=False)
    with pytest.raises(ProvenanceError, match="token"):
        combine(runs)


def test_a_truncated_results_file_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"format": 1, "dic')
    with pytest.raises(CorruptFileError, match=r"results\.json"):
        dl.Records.load(tmp_path)
