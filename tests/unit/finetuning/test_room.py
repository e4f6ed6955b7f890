"""A run that could not write its result ends before the first step."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.finetuning.finetuned import Finetuned
from tests.unit.finetuning.small import MLP, Counting, built

FROZEN = FinetuneConfig(steps=1, batch_size=4)
TRAINED = FinetuneConfig(steps=1, batch_size=4, model_learning_rate=1e-4)
CODES = {MLP: CodebookConfig(n_codes=8)}


def run(out, config=TRAINED, model=None, dictionaries=CODES, **options):
    model = built(torch.float32) if model is None else model
    return finetune(model, dictionaries, Counting(), config, out=out, progress=False, **options)


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(match, out, **arguments):
    before = files(out)
    with pytest.raises(InputError, match=match):
        run(out, **arguments)
    assert files(out) == before


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
def test_a_trained_model_that_cannot_be_saved(tmp_path, hooked_transformer):
    model = hooked_transformer()
    refused(
        "required a TransformerBridge.*got HookedTransformer",
        tmp_path,
        model=model,
        dictionaries={},
    )
    run(tmp_path / "frozen", FROZEN, model, {"blocks.0.hook_mlp_out": CODES[MLP]})


def test_a_trained_model_with_processed_weights(tmp_path):
    model = built(torch.float32)
    model.enable_compatibility_mode(disable_warnings=True)
    codes = {"blocks.0.hook_mlp_out": CODES[MLP]}
    refused("weights: processed", tmp_path, model=model, dictionaries=codes)
    run(None, model=model, dictionaries=codes)


IN_THE_WAY = [
    "config.json", "model", "dictionaries", f"dictionaries/{MLP}",
    *(f"dictionaries/{MLP}/{name}" for name in ("config.json", "weights.safetensors")),
    *(f"model/{name}" for name in
      ("saved_model.json", "weights.safetensors", "config.json", "tokenizer.json")),
]  # fmt: skip


@pytest.mark.parametrize("name", IN_THE_WAY)
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_in_the_way(tmp_path, name, overwrite):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    refused(str(path), tmp_path, overwrite=overwrite)


def test_files_that_are_not_in_the_way_stay(tmp_path):
    (tmp_path / "model").write_text("mine")
    run(tmp_path, FROZEN)
    assert (tmp_path / "model").read_text() == "mine"


def test_a_finished_run_is_gone_on_with_in_another_folder(tmp_path):
    run(tmp_path / "first")
    refused(r"already in .*first: .*Finetuned\.load to finetune", tmp_path / "first")
    first = Finetuned.load(tmp_path / "first")
    run(tmp_path / "second", model=first.model, dictionaries=first.dictionaries)
    run(tmp_path / "first", overwrite=True)
