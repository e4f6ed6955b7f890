"""Options of the command line for models and text, from a folder to results."""

import json
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
import transformers

from dictlearn.activations.store import ActivationStore
from dictlearn.cli import main
from dictlearn.formats import load
from dictlearn.records.results import Records

SIZES = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 4096}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*arguments: object) -> None:
        monkeypatch.setattr("sys.argv", ["dictlearn", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None), arguments

    return run


def save_model(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with as_file(files("dictlearn.assets") / "stories" / "tokenizer.json") as path:
        (folder / "tokenizer.json").write_bytes(path.read_bytes())
    return folder


def test_a_dictionary_of_a_base_model_on_its_sibling(
    run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base, sibling = (save_model(tmp_path / name, i) for i, name in enumerate(("base", "sibling")))
    text = tmp_path / "text.jsonl"
    rows = [{"story": f"<|endoftext|>The bear number {i} ate an apple."} for i in range(800)]
    text.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"story": None}]))
    source = (
        "--text", text, "--column", "story", "--control-tokens", "--separator", "<|endoftext|>",
    )  # fmt: skip
    store = tmp_path / "store"
    run(
        "harvest", "--model", base, "--no-check-model", *source, "--tokens", 2000, "--mlp", 0,
        "--out", store,
    )  # fmt: skip
    assert ActivationStore.open(store).provenance.model_check == "skipped"
    assert "text.jsonl: skipped 1 of 801 rows" in capfd.readouterr().err
    run("train", store, "--kind", "pca", "--k=4", "--steps", 4, "--batch-size", 256,
        "--out", tmp_path / "trained")  # fmt: skip
    measure = ("evaluate", tmp_path / "trained", "--model", sibling, *source, "--tokens", 300)
    out = tmp_path / "results"
    with pytest.raises(AssertionError):
        run(*measure, "--out", out)
    assert "--allow-other-model" in " ".join(capfd.readouterr().err.split())
    run(*measure, "--allow-other-model", "--out", out)
    assert "Trained on another model" in " ".join(capfd.readouterr().out.split())
    records = Records.load(out)
    assert records.provenance.model_check == "equal"
    assert records.tokens["other_models"]["trained"].startswith("'base'")


def test_training_goes_on_from_a_dictionary_without_massive_rows(run, tmp_path: Path) -> None:
    store, first, more = tmp_path / "store", tmp_path / "first", tmp_path / "more"
    run("harvest", "--tokens", 2000, "--hook", "blocks.1.hook_resid_post", "--out", store)
    run("train", store, "--kind", "topk_sae", "--n-features", 64, "--k", 4, "--steps", 4,
        "--batch-size", 256, "--out", first)  # fmt: skip
    run("train", store, "--init", first, "--steps", 2, "--batch-size", 256,
        "--max-norm-ratio", 8, "--out", more)  # fmt: skip
    one, other = load(first), load(more)
    assert one.config == other.config
    assert torch.equal(one.x_mean, other.x_mean)
    assert not torch.equal(one.atoms, other.atoms)
    assert other.provenance.training["fit_config"]["max_norm_ratio"] == 8
    assert len(other.provenance.training["init"]) == 64
