"""Attention without its table: the same numbers, and only where they are the same."""

from importlib.resources import as_file, files

import pytest
import torch
import transformers

from dictlearn.lm.attention import fused_attention
from dictlearn.lm.forward import activations_at, fusable_attention, reading
from dictlearn.lm.loading import load_model
from dictlearn.lm.shadows import nearly_equal

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
IDS = torch.randint(50, (3, 40), generator=torch.Generator().manual_seed(0))
LAST = "blocks.1.hook_mlp_out"
PATTERN = "blocks.1.attn.hook_pattern"


@pytest.fixture
def loaded(tmp_path):
    """A random model of an architecture, loaded from a folder as any other."""

    def load(config):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():  # as much attention as in a trained model
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        model.save_pretrained(tmp_path)
        with as_file(files("dictlearn.assets") / "stories" / "tokenizer.json") as path:
            (tmp_path / "tokenizer.json").write_bytes(path.read_bytes())
        return load_model(tmp_path, "cpu")

    return load


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).norm() < 1e-5 * expected.norm())


@pytest.mark.parametrize(
    "config",
    [
        transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0),
        transformers.GPTNeoXConfig(**SMALL),
        transformers.LlamaConfig(**GROUPED),
    ],
    ids=lambda config: config.model_type,
)
def test_common_architectures_run_without_their_tables(config, loaded):
    model = loaded(config)
    attention = fusable_attention(model, IDS, [LAST])
    assert list(attention) == [block.attn for block in model.blocks]
    clean = model(IDS)
    with fused_attention(attention):
        fused = model(IDS)
        assert model.blocks[0].attn(torch.zeros(1, 2, 32))[1] is None, "no pattern is made"
    assert same(fused, clean)
    assert torch.equal(model(IDS), clean), "afterwards as before"


@pytest.mark.parametrize("short", [True, False])
def test_a_window_counts_as_soon_as_it_is_shorter_than_a_sequence(loaded, short):
    model = loaded(transformers.MistralConfig(**GROUPED, sliding_window=8))
    ids = IDS[:, :8] if short else IDS
    attention = fusable_attention(model, ids, [LAST])
    assert len(attention) == (2 if short else 0)
    clean = model(ids)
    with fused_attention(attention):
        assert same(model(ids), clean)


def test_other_attention_runs_as_ever(loaded):
    capped = transformers.Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=1.0)
    assert fusable_attention(loaded(capped), IDS, [LAST]) == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loose_cap_is_seen_in_every_precision(loaded, dtype):
    """Gemma 2's default of 50 hardly shows on the scores of a small model."""
    model = loaded(transformers.Gemma2Config(**GROUPED, head_dim=8)).to(dtype)
    assert fusable_attention(model, IDS, [LAST]) == {}


def test_sequences_of_equal_tokens_prove_nothing(loaded):
    """Attention to equal tokens is the same with any window."""
    model = loaded(transformers.MistralConfig(**GROUPED, sliding_window=8))
    constant = torch.arange(2, 10)[:, None].expand(8, 40)
    assert fusable_attention(model, constant, [LAST]) == {}


def test_what_only_a_varied_sequence_shows_is_seen(loaded):
    """Norms of queries and keys, which change nothing where all values are equal."""
    qwen = transformers.Qwen3Config(**GROUPED, head_dim=8)
    assert fusable_attention(loaded(qwen), IDS, [LAST]) == {}


def test_equal_up_to_rounding_looks_past_an_offset_and_does_not_overflow():
    generator = torch.Generator().manual_seed(0)
    logits = -96 + 2 * torch.randn(8, 50_000, generator=generator)
    others = -96 + 2 * torch.randn(8, 50_000, generator=generator)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert nearly_equal(logits.to(dtype), logits.to(dtype))
        assert not nearly_equal(others.to(dtype), logits.to(dtype))
        assert not nearly_equal(torch.zeros(8, 50_000, dtype=dtype), logits.to(dtype))
    assert nearly_equal((logits + 96) * (1 + 1e-6), logits + 96)


def test_a_look_inside_sees_everything(native, ids):
    model = native()
    attention = fusable_attention(model, ids, [LAST])
    assert len(attention) == 2
    seen = []
    hooks = [(PATTERN, lambda pattern, hook: seen.append(pattern))]
    with model.hooks(fwd_hooks=hooks):
        model(ids)
        with fused_attention(attention):
            model(ids)
    assert len(seen) == 2
    assert same(seen[1], seen[0])
    assert same(seen[1].sum(dim=-1), torch.ones(3, 2, 12))


def test_every_other_hook_sees_what_it_always_does(native, ids):
    model = native()
    names = [f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.hook_in", "hook_attn_out")]
    names += [f"blocks.1.attn.hook_{n}" for n in "qkvz"]
    expected = activations_at(model, ids, names)
    with reading(model, names, fusable_attention(model, ids, names)) as read:
        found = read(ids)
    assert all(same(found[name], expected[name]) for name in names)
