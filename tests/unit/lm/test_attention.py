"""Attention without its table: the same numbers, and only where they are the same."""

from functools import wraps
from importlib.resources import as_file, files

import pytest
import torch
import transformers

from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.lm import attention
from dictlearn.lm.attention import fusable_attention
from dictlearn.lm.forward import activations_at, reading
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


def fused(model, ids=IDS):
    """The logits where attention runs fused if it may, and the modules where it did."""
    attention = fusable_attention(model)
    with attention.running():
        return model(ids), attention.used


def lengths(model, layer: int) -> list[int]:
    """A list that is told the length of every sequence for which scores are computed there."""
    seen, attn = [], model.blocks[layer].attn
    run = attn.forward

    @wraps(run)
    def noted(*args, **kwargs):
        seen.append((kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).shape[1])
        return run(*args, **kwargs)

    vars(attn)["forward"] = noted
    return seen


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
    """Not even in the trial: it looks at three pieces of a sequence, and once for each length."""
    model = loaded(config)
    clean = model(IDS)
    tried = lengths(model, 1)
    for _ in range(2):
        logits, used = fused(model)
        assert used == {block.attn for block in model.blocks}
        assert same(logits, clean)
    assert tried == [16, 16, 16]
    fused(model, IDS[:, :20])
    assert tried == [16] * 6
    assert torch.equal(model(IDS), clean), "afterwards as before"


def test_a_model_without_a_cache_is_tried_as_a_whole(native):
    model = native(n_ctx=40)
    ids = IDS % 40
    logits, used = fused(model, ids)
    assert used == {block.attn for block in model.blocks}
    assert same(logits, model(ids))


@pytest.mark.parametrize("window", [8, 39, 40])
def test_a_window_counts_as_soon_as_it_is_shorter_than_a_sequence(loaded, window):
    model = loaded(transformers.MistralConfig(**GROUPED, sliding_window=window))
    for n in (8, 40):
        ids = IDS[:, :n]
        logits, used = fused(model, ids)
        assert len(used) == (2 if n <= window else 0)
        assert same(logits, model(ids))


def test_other_attention_runs_as_ever(loaded):
    capped = loaded(transformers.Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=1.0))
    assert not fused(capped)[1]
    with without_shortcuts():
        assert len(fusable_attention(loaded(transformers.LlamaConfig(**GROUPED)))) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_loose_cap_is_seen_in_every_precision(loaded, dtype):
    """Gemma 2's default of 50 hardly shows on the scores of a small model."""
    model = loaded(transformers.Gemma2Config(**GROUPED, head_dim=8)).to(dtype)
    assert not fused(model)[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_tried_on_their_own(loaded, dtype):
    model = loaded(transformers.LlamaConfig(**GROUPED))
    fused(model)
    tried = lengths(model.to(dtype), 0)
    assert len(fused(model)[1]) == 2
    assert tried == [16, 16, 16]


def test_sequences_of_equal_tokens_do_not_hide_a_window(loaded):
    """Attention to equal tokens is the same with any window."""
    model = loaded(transformers.MistralConfig(**GROUPED, sliding_window=8))
    assert not fused(model, torch.arange(2, 10)[:, None].expand(8, 40))[1]
    plain = loaded(transformers.LlamaConfig(**GROUPED))
    assert len(fused(plain, torch.full((2, 40), 3))[1]) == 2


def test_a_module_that_is_called_in_another_way_runs_as_ever(loaded):
    model = loaded(transformers.LlamaConfig(**GROUPED))
    module = model.blocks[0].attn
    calls, run = [], module.forward
    vars(module)["forward"] = lambda *args, **kwargs: calls.append(args) or "as ever"
    with fusable_attention(model).running():
        assert module.forward() == module.forward(torch.ones(2)) == module.forward(x=3) == "as ever"
    assert len(calls) == 3
    vars(module)["forward"] = run


def test_norms_of_queries_and_keys_are_seen(loaded):
    assert not fused(loaded(transformers.Qwen3Config(**GROUPED, head_dim=8)))[1]


def test_a_trial_calls_no_function_and_keeps_no_keys(loaded):
    """A reader would take a piece of a sequence for its activation, and a cache grow twice."""
    model = loaded(transformers.LlamaConfig(**GROUPED))
    calls = []
    names = [f"blocks.0.attn.{name}" for name in ("hook_in", "q.hook_out", "o.hook_in", "hook_out")]
    note = [(name, lambda x, hook: calls.append(x.shape[:2])) for name in names]
    expected, cache = model(IDS, use_cache=True, return_type="logits_and_cache")
    with model.hooks(fwd_hooks=note), fusable_attention(model).running():
        assert same(model(IDS), expected)
    assert calls == [IDS.shape] * 4
    assert cache.get_seq_length() == IDS.shape[1]


def test_gradients_are_those_of_the_plain_pass(loaded):
    model = loaded(transformers.LlamaConfig(**GROUPED)).double()
    weight = model.blocks[0].attn.q.weight.requires_grad_()

    def gradient():
        weight.grad = None
        model(IDS)[..., 3].sum().backward()
        return weight.grad

    expected = gradient()
    for _ in range(2):  # in the pass of the trial and after it
        with fusable_attention(model).running():
            assert same(gradient(), expected)


def test_attention_that_gives_the_same_only_alone_is_left(loaded, monkeypatch):
    """A wrong row anywhere in the pieces is seen: the first, the middle and the last."""
    output = attention._Fused.output
    for row in (0, 20, 39):
        model = loaded(transformers.LlamaConfig(**GROUPED))

        def wrong(self, q, k, v, row=row):
            found = output(self, q, k, v).clone()
            found[:, row] *= 1.001
            return found

        monkeypatch.setattr(attention._Fused, "output", wrong)
        assert not fused(model)[1]


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
    assert len(fused(model, ids)[1]) == 2
    seen = []
    hooks = [(PATTERN, lambda pattern, hook: seen.append(pattern))]
    with model.hooks(fwd_hooks=hooks):
        model(ids)
        assert fused(model, ids)[1] == {model.blocks[0].attn}
    assert len(seen) == 2
    assert same(seen[1], seen[0])
    assert same(seen[1].sum(dim=-1), torch.ones(3, 2, 12))


def test_every_other_hook_sees_what_it_always_does(native, ids):
    model = native()
    names = [f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.hook_in", "hook_attn_out")]
    names += [f"blocks.1.attn.hook_{n}" for n in "qkvz"]
    expected = activations_at(model, ids, names)
    for _ in range(2):
        with reading(model, names, fusable_attention(model)) as read:
            found = read(ids)
        assert all(same(found[name], expected[name]) for name in names)
