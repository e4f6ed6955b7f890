"""Generation: with a cache as without, seeded, and with functions at hooks."""

import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.lm import generation
from dictlearn.lm.generation import generate
from dictlearn.lm.loading import load_model
from dictlearn.lm.patching import patched

COMMON = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 32, "max_position_embeddings": 64}  # fmt: skip
CONFIGS = {
    "gpt2": transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64),
    "llama": transformers.LlamaConfig(**COMMON, num_key_value_heads=2),
    "neox": transformers.GPTNeoXConfig(**COMMON),
}
HOOK = "blocks.0.hook_mlp_out"


@pytest.fixture(scope="module", params=["native", "gqa", *CONFIGS])
def model(request, native, tmp_path_factory):
    if request.param == "native":
        return native(n_ctx=64).double()
    if request.param == "gqa":
        return native(n_ctx=64, n_key_value_heads=1).double()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # predictions that depend on what came before
    model.save_pretrained(folder)
    return load_model(folder, dtype=torch.float64)


@pytest.fixture
def prompt():
    return torch.randint(40, (5, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [
    {"temperature": 0.0}, {"seed": 3}, {"top_p": 0.8}, {"stop": 7},
    {"stop": (3, 8, 11), "temperature": 2.0},
])  # fmt: skip
def test_the_cache_changes_no_token(model, prompt, options, caplog):
    found = generate(model, prompt, 20, progress=False, **options)
    assert not caplog.records, "the cache was used"
    plain = generate(model, prompt, 20, cached=False, progress=False, **options)
    assert torch.equal(found, plain)
    assert torch.equal(found[:, :4], prompt)
    assert found.shape == (5, 24)
    assert len(found[:, 4:].unique()) > 3
    with without_shortcuts():
        assert torch.equal(generate(model, prompt, 20, progress=False, **options), plain)


def test_functions_at_hooks_see_positions(model, prompt):
    seen = []

    def change(y, positions):
        seen.append(positions)
        return torch.where((positions % 5 == 2).unsqueeze(2), -3 * y, y)

    with patched(model, {HOOK: change}):
        found = generate(model, prompt, 12, progress=False)
        at = [p[0].tolist() for p in seen]
        plain = generate(model, prompt, 12, cached=False, progress=False)
    assert torch.equal(found, plain)
    assert at[-3:] == [[12], [13], [14]]
    assert not torch.equal(found, generate(model, prompt, 12, progress=False))
    assert not any(p.fwd_hooks for p in model.hook_dict.values())


def test_only_the_seed_counts(model, prompt):
    torch.manual_seed(5)
    first, state = generate(model, prompt, 8, seed=1, progress=False), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state()), "global random numbers are left alone"
    torch.manual_seed(6)
    assert torch.equal(first, generate(model, prompt, 8, seed=1, progress=False))
    assert not torch.equal(first, generate(model, prompt, 8, seed=2, progress=False))


def test_prompts_of_several_lengths(model):
    prompts = [torch.tensor([3, 1]), torch.tensor([5, 9, 2]), torch.tensor([4, 4])]
    found = generate(model, prompts, 6, temperature=0.0, progress=False)
    for prompt, row in zip(prompts, found, strict=True):
        alone = generate(model, prompt[None], 6, temperature=0.0, progress=False)
        assert torch.equal(row, alone[0])


def test_a_stopped_sequence_is_filled(model, prompt):
    free = generate(model, prompt, 20, seed=3, progress=False)
    stop = int(free[0, 9])
    found = generate(model, prompt, 20, seed=3, stop=stop, progress=False)
    first = int((free[0, 4:] == stop).nonzero()[0]) + 4
    assert torch.equal(found[0, : first + 1], free[0, : first + 1])
    assert (found[0, first:] == stop).all()


def test_nucleus_sampling():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    drawn = generation._drawn(logits, 1.0, 0.7, generator)
    counts = torch.bincount(drawn, minlength=4) / 4000
    assert counts[2:].tolist() == [0, 0]
    assert counts[0].item() == pytest.approx(0.5 / 0.8, abs=0.03)
    hot = torch.bincount(generation._drawn(logits, 2.0, 1.0, generator), minlength=4) / 4000
    wanted = (logits[0] / 2).softmax(0)
    assert torch.allclose(hot, wanted, atol=0.03)


def test_where_a_cache_gives_other_logits_everything_is_recomputed(
    model, prompt, monkeypatch, caplog
):
    plain = generate(model, prompt, 6, cached=False, progress=False)

    class Wrong(generation._CachedSteps):
        def __call__(self, ids):
            return super().__call__(ids).roll(1, dims=1)

    monkeypatch.setattr(generation, "_CachedSteps", Wrong)
    assert torch.equal(generate(model, prompt, 6, progress=False), plain)
    assert "recomputes every token" in caplog.text


@pytest.mark.untyped
def test_errors(native):
    model, ids = native(), torch.zeros(1, 4, dtype=torch.long)
    for match, arguments, options in (
        (r"\[b, pos\]", (ids[0], 3), {}),
        (r"\[b, pos\]", (ids[:, :0], 3), {}),
        (r"\[b, pos\]", (ids.float(), 3), {}),
        ("from 0 to 39", (ids + 40, 3), {}),
        ("n_new", (ids, 0), {}),
        ("temperature", (ids, 3), {"temperature": -1.0}),
        ("top_p", (ids, 3), {"top_p": 0.0}),
        ("stop tokens", (ids, 3), {"stop": 40}),
        ("the context of this model", (ids, 1000), {}),
    ):
        with pytest.raises(InputError, match=match):
            generate(model, *arguments, **options)
