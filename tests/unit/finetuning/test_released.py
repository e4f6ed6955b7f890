"""Codebook models of the authors' code run as they do there."""

from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from dictlearn.core.errors import InputError
from dictlearn.finetuning.finetuned import Finetuned
from dictlearn.lm.native import new_model
from tests.unit.finetuning.small import SHAPE
from tests.unit.interop import released
from tests.unit.interop.released import CONFIG, N_HEADS, N_LAYERS

IDS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(2))
ONE: dict[str, Any] = {"codebook_type": ["vanilla"], "num_codebooks": [1], "k_codebook": [3],
                       "num_codes": [12]}  # fmt: skip
GROUP = ONE | {"codebook_type": ["group"]}
ALL = {
    "codebook_at": ["mlp_mid", "attn_preproj", "mlp", "transformer_block"],
    "codebook_type": ["group", "vanilla", "group", "vanilla"],
    "num_codebooks": [3, 1, 8, 1], "k_codebook": [2, 3, 4, 5], "num_codes": [12] * 4,
}  # fmt: skip
CASES = {
    "tokfsm": ("gpt_neox", {}),
    "stories": ("gpt_neo", GROUP | {"codebook_at": ["attn_preproj"], "num_codebooks": [N_HEADS]}),
    "gpt2": ("gpt2", {"layers_to_snap": [1]}),
    "euclidean": ("gpt2", {"similarity_metric": "euclidean"}),
    "one-group": ("gpt_neox", GROUP | {"codebook_at": ["attn"]}),
    "attention": ("gpt2", ONE | {"codebook_at": ["attn"]}),
    "block": ("gpt_neox", ONE | {"codebook_at": ["transformer_block"], "layers_to_snap": [0, 2]}),
    "all-gpt2": ("gpt2", ALL),
    "all-neox": ("gpt_neox", ALL),
    "all-neo": ("gpt_neo", ALL),
}


def logits(found):
    with found.inside():
        return found.model(IDS)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_released_pass(tmp_path, case):
    model_type, change = CASES[case]
    config = CONFIG | change
    reference = released.write(tmp_path / "theirs", model_type, config)
    found = Finetuned.load(tmp_path / "theirs", tmp_path / "base")
    assert len(found.dictionaries) == len(config["codebook_at"]) * len(config["layers_to_snap"])
    with torch.no_grad():
        expected, plain = reference(IDS).logits, released.base_model(model_type)(IDS).logits
    torch.testing.assert_close(logits(found), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.model(IDS), plain, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().mean() > 0.05  # codebooks matter


def test_it_is_saved_and_loaded_as_ours(tmp_path):
    released.write(tmp_path / "theirs", "gpt_neox", CONFIG)
    found = Finetuned.load(tmp_path / "theirs", tmp_path / "base")
    assert found.settings == CONFIG
    assert list(found.dictionaries)[:2] == ["blocks.0.attn.hook_z", "blocks.0.hook_mlp_out"]
    again = Finetuned.load(found.save(tmp_path / "ours"))
    assert torch.equal(logits(again), logits(found))


def test_settings_before_they_are_resolved(tmp_path):
    """One value for all places, all heads, all layers, layers from the end."""
    written = {"codebook_at": ["attn_preproj"], "num_codebooks": [N_HEADS]}
    released.write(tmp_path / "theirs", "gpt2", CONFIG | GROUP | written)
    expected = logits(Finetuned.load(tmp_path / "theirs", tmp_path / "base"))
    short = {"codebook_at": "attn_preproj", "codebook_type": "group", "num_codes": 12,
             "k_codebook": 3, "num_codebooks": -1}  # fmt: skip
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    for layers in ("all", [*range(-N_LAYERS, 0)]):
        released.save(tmp_path / "theirs", CONFIG | short | {"layers_to_snap": layers}, tensors)
        found = Finetuned.load(tmp_path / "theirs", tmp_path / "base")
        assert torch.equal(logits(found), expected)


def test_the_base_model_is_required_and_has_to_fit(tmp_path):
    theirs, base = tmp_path / "theirs", tmp_path / "base"
    released.write(theirs, "gpt2", CONFIG)
    with pytest.raises(InputError, match=r"theirs: .*as model= \(--model\), got nothing"):
        Finetuned.load(theirs)
    with pytest.raises(InputError, match=r"\(--model\), got TransformerBridge"):
        Finetuned.load(theirs, new_model(SHAPE))
    transformers.GPT2Config(
        **released.base_config("gpt2").to_dict() | {"n_layer": 4}
    ).save_pretrained(base)
    with pytest.raises(InputError, match=r"theirs: .*missing or unknown: transformer\.h\.3\."):
        Finetuned.load(theirs, base)
    transformers.GPT2Config(
        **released.base_config("gpt2").to_dict() | {"n_inner": 8}
    ).save_pretrained(base)
    with pytest.raises(InputError, match=r"theirs: .*could not be loaded"):
        Finetuned.load(theirs, base)
    released.base_config("gpt2").save_pretrained(base)
    path = theirs / "model.safetensors"
    save_file(load_file(path) | {"model.transformer.other": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"missing or unknown: transformer\.other"):
        Finetuned.load(theirs, base)
