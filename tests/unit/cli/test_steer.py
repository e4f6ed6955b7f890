"""`dictlearn steer`: texts with and without edits, from dictionaries or a finetuned folder."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from dictlearn.cli import app, steering
from dictlearn.core.errors import InputError, ProvenanceError
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.files import save
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetune import finetune
from dictlearn.lm.loading import load_model
from dictlearn.lm.saving import save_model
from dictlearn.lm.sites import hook_sites
from tests.unit.interop import released


@pytest.fixture(scope="module")
def model():
    return load_model("builtin:stories")


def steered(*arguments):
    app([*map(str, arguments)], standalone_mode=False)


def test_texts_with_and_without_edits(model, tmp_path, capsys):
    sae = TopKSAEConfig(n_features=32, k=4).build(hook_sites(model, "blocks.0.hook_mlp_out"))
    save(sae, tmp_path / "sae")
    common = ("steer", tmp_path / "sae", "--prompt", "Once upon a time", "--new", 5, "--samples", 2)
    steered(*common, "--edit", "push sae 3 = 40.0 at 3:", "--edit", "ablate 5")
    shown = capsys.readouterr().out
    before, after = shown.split("push sae 3 = 40.0 at 3:; ablate 5")
    assert before.count("Once upon a time") == after.count("Once upon a time") == 2
    steered(*common, "--edit", "scale sae 3 = 1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("without the edits")
    half = len(lines) // 2
    assert lines[half].startswith("scale sae 3 = 1.0")
    assert lines[1:half] == lines[half + 1 :], "the edit changes nothing, and the seed is the same"
    for text, told in (("clampp sae 3 = 1", "no edit"), ("clamp seae 3 = 1", "no dictionary")):
        with pytest.raises(InputError, match=told):
            steered(*common, "--edit", text)
    with pytest.raises(InputError, match="--edits"):
        steered(*common)
    with pytest.raises(InputError, match="the device 'meta' cannot be used"):
        steered(*common, "--edit", "ablate 3", "--device", "meta")
    (tmp_path / "edits.toml").write_text("edits = ['ablate 3', 'push sae 4 = 2']")
    steered(*common, "--edit", "scale 5 = 2", "--edits", tmp_path / "edits.toml")
    assert "scale 5 = 2.0; ablate 3; push sae 4 = 2.0" in capsys.readouterr().out


def test_a_published_codebook_model(tmp_path, capsys):
    released.write(tmp_path / "theirs", "gpt_neox", released.CONFIG)
    digits = Tokenizer(models.WordLevel({**{str(i): i for i in range(10)}, "<eos>": 10}, "<eos>"))
    PreTrainedTokenizerFast(tokenizer_object=digits, bos_token="<eos>", eos_token="<eos>",
                            unk_token="<eos>").save_pretrained(tmp_path / "base")  # fmt: skip
    edit = "activate blocks.1.hook_mlp_out 3 = all"
    common = ("steer", tmp_path / "theirs", "--edit", edit, "--new", 4)
    steered(*common, "--model", tmp_path / "base")
    assert edit in capsys.readouterr().out
    with pytest.raises(InputError, match=r"theirs: .*\(--model\), got nothing"):
        steered(*common)
    with pytest.raises(InputError, match=r"theirs: required a Hugging Face id .*builtin:stories"):
        steered(*common, "--model", "builtin:stories")


HOOK = "blocks.0.attn.hook_z"
FROZEN = FinetuneConfig(steps=1, batch_size=2)


@pytest.fixture
def tokens(model):
    ids = model.tokenizer("Once upon a time there was a dog. " * 20, return_tensors="pt").input_ids
    ids = ids[:, :96].reshape(3, 32)
    return Tokens(ids, ids >= 0, "a dog", "train", "0")


def test_a_finetuned_folder(tokens, tmp_path, capsys):
    codes = {HOOK: CodebookConfig(n_codes=8, k=2, n_groups=4)}
    run = replace(FROZEN, model_learning_rate=1e-5)
    finetune(load_model("builtin:stories"), codes, tokens, run, out=tmp_path, progress=False)
    common = ("steer", tmp_path, "--edit", f"activate {HOOK} 3 = all", "--new", 4)
    steered(*common)
    assert f"activate {HOOK} 3 = all" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"own.*--model\), got 'builtin:stories'"):
        steered(*common, "--model", "builtin:stories")


def test_a_finetuned_folder_of_a_frozen_model(model, tokens, tmp_path, capsys):
    finetune(model, {HOOK: CodebookConfig(n_codes=8)}, tokens, FROZEN, out=tmp_path / "codes",
             progress=False)  # fmt: skip
    common = ("steer", tmp_path / "codes", "--edit", f"activate {HOOK} 3 = all", "--new", 4)
    steered(*common)
    shown = capsys.readouterr().out
    save_model(model, tmp_path / "model")
    steered(*common, "--model", tmp_path / "model")
    assert capsys.readouterr().out == shown


def test_a_finetuned_folder_of_a_model_from_a_folder(tmp_path):
    base, codes = str(tmp_path / "base"), tmp_path / "codes"
    released.base_model("gpt2").save_pretrained(base)
    ids = torch.arange(20).reshape(2, 10) % 11
    tokens = Tokens(ids, ids >= 0, "digits", "train", "0")
    finetune(load_model(base), {"blocks.0.hook_mlp_out": CodebookConfig(n_codes=8)}, tokens, FROZEN,
             out=codes, progress=False)  # fmt: skip
    for check, state in ((True, "equal"), (False, "skipped")):
        found, keeps = steering._opened([codes], base, check_model=check)
        assert found.model.cfg.model_check == state
        assert not keeps
    found, _ = steering._opened([codes], None, check_model=False)
    assert found.model.cfg.loaded_from == base, "it is found where it was"
    with pytest.raises(ProvenanceError, match=r"on model 'base' .* used on 'builtin:stories'"):
        steered("steer", codes, "--edit", "ablate 3", "--model", "builtin:stories")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"or as --model \(from {base}: "):
        steered("steer", codes, "--edit", "ablate 3")
