from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from dictlearn.core.errors import ProvenanceError
from dictlearn.core.provenance import Provenance
from dictlearn.lm import identity
from dictlearn.lm.identity import (
    model_hash,
    model_name,
    model_provenance,
    weight_processing,
    weights_hash,
)
from dictlearn.lm.loading import load_model

DEPRECATED = "ignore:HookedTransformer is deprecated:DeprecationWarning"
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def test_the_builtin_model_has_one_fingerprint_under_every_transformer_lens() -> None:
    """What stands in the files that people have: it must not change."""
    fingerprint = "5cdeb5c314d893ea6a7d44b390989aa6c3c88a39c4115493c0a3fd617d3c28e0"
    assert model_hash(load_model("builtin:stories", "cpu")) == fingerprint


@pytest.mark.parametrize(
    ("config", "fingerprint"),
    [
        (transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0), "2ccf4f1184684977"),
        (transformers.LlamaConfig(**SMALL), "8f8ea15b22bee69d"),
        (transformers.GPTNeoXConfig(**SMALL), "4e7db81996e546fd"),
        (transformers.PhiConfig(**SMALL), "1508c083b6fb8cd5"),  # has a bias of its own there
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_folder_has_one_fingerprint_under_every_transformer_lens(
    config, fingerprint, saved
) -> None:
    assert model_hash(load_model(saved(config), "cpu"))[:16] == fingerprint


def test_the_bias_of_the_unembedding_may_be_a_parameter_or_a_buffer(native) -> None:
    model = native()
    before = model_hash(model)
    head = model.unembed.original_component
    bias, was_parameter = head.bias.detach().clone(), isinstance(head.bias, nn.Parameter)
    del head.bias
    if was_parameter:
        head.register_buffer("bias", bias)
    else:
        head.bias = nn.Parameter(bias, requires_grad=False)
    assert model_hash(model) == before
    with torch.no_grad():
        head.bias[0] += 1
    assert model_hash(model) != before


def test_equal_weights_have_equal_hashes(native) -> None:
    assert model_hash(native()) == model_hash(native())
    assert model_hash(native()) != model_hash(native(seed=1))
    assert model_hash(native()) != model_hash(native().to(torch.bfloat16))


def test_hash_follows_a_change_of_weights(native) -> None:
    model = native()
    before = model_hash(model)
    with torch.no_grad():
        model.blocks[0].mlp.W_in[0, 0] += 1
    assert model_hash(model) != before


def test_large_parameters_are_sampled() -> None:
    assert len(identity._sample(torch.arange(200_000))) == 50_000
    assert len(identity._bytes(identity._sample(torch.ones(3, 5, dtype=torch.bfloat16)))) == 30
    assert identity._sample(torch.tensor(1.0)) == identity._sample(torch.ones(1, 1))


@pytest.mark.parametrize("published", [torch.bfloat16, torch.float16, torch.float32])
def test_copies_of_a_checkpoint_in_two_dtypes_are_one_model(
    published: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)
    original = transformers.AutoModelForCausalLM.from_config(config).to(published)
    original.save_pretrained(tmp_path)
    exact, rounded = (
        model_provenance(load_model(tmp_path, "cpu", dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact.dtype, rounded.dtype) == ("float32", "bfloat16")
    assert exact.weights_hash == rounded.weights_hash
    assert exact.model_hash != rounded.model_hash
    with pytest.warns(UserWarning, match="'sae' was trained .* in bfloat16 .* in float32"):
        rounded.require_same_model(exact, "sae")
    with torch.no_grad():
        original.transformer.h[0].mlp.c_fc.weight[0, 0] += 1
    original.save_pretrained(tmp_path)
    other = model_provenance(load_model(tmp_path, "cpu"))
    assert other.weights_hash != exact.weights_hash
    with pytest.raises(ProvenanceError, match=r"(?s)dtype bfloat16.*dtype float32"):
        rounded.require_same_model(other, "sae")


def test_files_with_the_earlier_fingerprint_alone_are_accepted_on_the_same_model(native) -> None:
    for model in (native(), native().to(torch.bfloat16)):
        now = model_provenance(model)
        earlier = Provenance(model_hash=model_hash(model))
        earlier.require_same_model(now, "sae")
        now.require_same_model(earlier, "sae")
    with pytest.raises(ProvenanceError, match="load it in the dtype that was used then"):
        earlier.require_same_model(model_provenance(native()), "sae")


def test_the_fingerprint_in_any_dtype_does_not_change_between_versions() -> None:
    fingerprint = "ac4dc2d77d2ce41702929793affaaa03cfe54890622573a1c88580df75f061f9"
    assert weights_hash(load_model("builtin:stories", "cpu")) == fingerprint
    assert weights_hash(load_model("builtin:stories", "cpu", torch.bfloat16)) == fingerprint


def test_processed_weights_are_another_model(native) -> None:
    model = native()
    raw = model_provenance(model)
    assert (raw.model, raw.weight_processing) == ("native", "none")
    model.enable_compatibility_mode(disable_warnings=True)
    processed = model_provenance(model)
    assert processed.weight_processing == "processed"
    assert processed.model_hash != raw.model_hash


@pytest.mark.filterwarnings(DEPRECATED)
def test_processing_of_a_hooked_transformer(hooked_transformer) -> None:
    assert weight_processing(hooked_transformer(normalization_type="LNPre")) == "fold_ln"
    assert weight_processing(hooked_transformer()) == ""


def test_name_does_not_tell_where_a_folder_lies(native, tmp_path: Path) -> None:
    model = native()
    for name, expected in [
        (str(tmp_path / "my-model"), "my-model"),
        ("./folder/other", "other"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("builtin:stories", "builtin:stories"),
    ]:
        model.cfg.model_name = name
        assert model_name(model) == expected


def test_an_edit_past_autograd_is_seen(native):
    model = native()
    before = model_hash(model)
    next(p for p in model.parameters() if p.ndim == 2).data.zero_()
    assert model_hash(model) != before
