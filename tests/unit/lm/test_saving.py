"""Models saved and loaded: equal logits, whatever the architecture; damaged files are told."""

import pytest
import torch
import transformers

from dictlearn.core.errors import ConfigError, CorruptFileError, InputError
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.loading import load_model
from dictlearn.lm.native import NativeModelConfig, new_model
from dictlearn.lm.saving import WEIGHTS_FILE, save_model

SHAPE = NativeModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=32, n_ctx=16, d_vocab=40)
COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
ARCHITECTURES = {
    "gpt2": transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "llama": transformers.LlamaConfig(**COMMON, num_key_value_heads=2),
    "neox": transformers.GPTNeoXConfig(**COMMON),
}


def moved(model):
    """`model` with other weights than those it was loaded with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def test_a_new_model_depends_on_its_seed():
    first, again, other = (new_model(SHAPE, seed=seed) for seed in (0, 0, 1))
    ids = torch.arange(8)[None]
    assert torch.equal(first(ids), again(ids))
    assert not torch.equal(first(ids), other(ids))
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())
    with pytest.raises(ConfigError, match="a divisor of 16"):
        NativeModelConfig(n_layers=2, d_model=16, n_heads=3, d_mlp=32, n_ctx=16, d_vocab=40)


@pytest.mark.parametrize("name", ["native", "builtin", *ARCHITECTURES])
def test_what_is_loaded_is_what_was_saved(name, tmp_path):
    ids = torch.arange(8).reshape(2, 4)
    if name == "native":
        model = moved(new_model(SHAPE))
    elif name == "builtin":
        model = moved(load_model("builtin:stories"))
    else:
        transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name]).save_pretrained(
            tmp_path / "theirs"
        )
        model = moved(load_model(tmp_path / "theirs"))
    save_model(model, tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert torch.equal(again(ids), model(ids))
    assert model_provenance(again).model_hash == model_provenance(model).model_hash
    assert not again.training
    assert model_provenance(again).model_path == str((tmp_path / "ours").resolve())
    assert str(tmp_path) not in (tmp_path / "ours" / "saved_model.json").read_text()
    save_model(again, tmp_path / "ours")
    assert torch.equal(load_model(str(tmp_path / "ours"))(ids), model(ids)), "it may be replaced"
    if name == "builtin":
        text = "Once upon a time, there was a dragon."
        assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
        assert again.tokenizer.eos_token == model.tokenizer.eos_token
    else:
        assert again.tokenizer is None


SPECIAL = {"none": {}, "eos": {"eos_token": "<|endoftext|>"},
           "both": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}}  # fmt: skip


@pytest.mark.parametrize("special", SPECIAL)
def test_a_tokenizer_of_hugging_face_is_kept(special, tmp_path):
    builtin = load_model("builtin:stories").tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=builtin.backend_tokenizer, **SPECIAL[special]
    )
    config = transformers.GPT2Config(vocab_size=2100, n_embd=16, n_layer=1, n_head=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    model = moved(load_model(tmp_path / "theirs"))
    again = load_model(save_model(model, tmp_path / "ours"))
    ids = torch.arange(8).reshape(2, 4)
    assert torch.equal(again(ids), model(ids))
    assert again.cfg.d_vocab == model.cfg.d_vocab == 2100
    assert again.cfg.tokenizer_prepends_bos == model.cfg.tokenizer_prepends_bos
    for text in ("Once upon a time, there was a dragon.", " a", "<|endoftext|>One"):
        assert again.tokenizer.encode(text) == model.tokenizer.encode(text)
        assert torch.equal(again.to_tokens(text), model.to_tokens(text))
    assert again.tokenizer.special_tokens_map == model.tokenizer.special_tokens_map


def test_damage_is_told(tmp_path):
    save_model(new_model(SHAPE), tmp_path)
    data = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    data[-3] ^= 1
    (tmp_path / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(CorruptFileError, match=WEIGHTS_FILE):
        load_model(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_cannot_be_saved(hooked_transformer, tmp_path):
    with pytest.raises(InputError, match="required a TransformerBridge"):
        save_model(hooked_transformer(), tmp_path)
