"""Generation: the same tokens with a cache and without, edits and padding included."""

import logging

import numpy as np
import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.lm.forward import activations_at
from dictlearn.lm.generation import generate
from dictlearn.lm.loading import load_model
from dictlearn.lm.next_logits import recomputed, with_cache
from dictlearn.lm.patching import patched
from tests.unit.lm.architectures import EVERYWHERE, OTHERS
from tests.unit.lm.test_originals import random_model

IDS = torch.randint(1, 40, (3, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]])
NATIVE = {
    "native": {},
    "rotary": {
        "positional_embedding_type": "rotary", "n_key_value_heads": 1, "normalization_type": "RMS",
        "attn_scores_soft_cap": 2.0,
    },
}  # fmt: skip
HUGGING_FACE = ("gpt2", "gpt_neox", "llama", "mistral", "opt")


@pytest.fixture(scope="module", params=[*NATIVE, *HUGGING_FACE, "hooked"])
def model(request, native, hooked_transformer, tmp_path_factory):
    """Random models of every class that keeps keys and values in its own way, in float64."""
    if request.param == "hooked":
        with pytest.warns(Warning, match="HookedTransformer"):
            found = hooked_transformer(n_ctx=32)
        return found.double()
    if request.param in NATIVE:
        return native(n_ctx=32, **NATIVE[request.param]).double()
    folder = tmp_path_factory.mktemp(request.param)
    random_model(request.param, folder)
    return load_model(folder, "cpu", torch.float64)


@pytest.fixture
def padded(model, request):
    """The same, in float32 where transformers gives nan for padding in float64."""
    yield model.float() if request.node.callspec.params["model"] in HUGGING_FACE else model
    model.double()


@pytest.fixture(scope="module")
def small(native):
    return native(n_ctx=32).double()


def both(model, ids, n_new, **options):
    """The tokens with a cache, which was used to the end, and those without one."""
    widths = []
    hook = "blocks.1.hook_resid_post"
    with patched(model, {hook: lambda y, positions: widths.append(y.shape[1])}):
        fast = generate(model, ids, n_new, **options)
    pos = ids.shape[1]
    assert widths == [pos, pos, 1, pos + 1, *[1] * (n_new - 2), pos + n_new - 1]
    return fast, generate(model, ids, n_new, cached=False, **options)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": 3}, {"top_p": 0.8}], ids=str)
def test_a_cache_changes_no_token(model, options):
    fast, plain = both(model, IDS, 12, **options)
    assert fast.shape == (3, 18)
    assert torch.equal(fast[:, :6], IDS)
    assert torch.equal(fast, plain)


def test_greedy_tokens_are_those_of_a_plain_loop(model):
    expected = IDS
    for _ in range(5):
        ones = {} if hasattr(model, "original_model") else {"attention_mask": expected * 0 + 1}
        token = model(expected, **ones)[:, -1].argmax(dim=-1, keepdim=True)
        expected = torch.cat([expected, token], dim=1)
    assert torch.equal(generate(model, IDS, 5, temperature=0.0), expected)


def test_padding_on_the_left_changes_nothing(padded):
    fast, plain = both(padded, IDS, 8, mask=MASK, temperature=0.0)
    assert torch.equal(fast, plain)
    for row, kept in zip(IDS, MASK.sum(dim=1).tolist(), strict=True):
        alone = generate(padded, row[None, 6 - kept :], 8, temperature=0.0)[0]
        assert any(torch.equal(alone, found[6 - kept :]) for found in fast)
    sampled = {"mask": MASK.bool(), "seed": 1}
    other = torch.where(MASK.bool(), IDS, 7)  # whatever the padding is
    fast, plain = both(padded, other, 8, **sampled)
    assert torch.equal(fast, plain)
    assert torch.equal(fast[:, 6:], generate(padded, IDS, 8, **sampled)[:, 6:])


@pytest.mark.parametrize("mask", [None, MASK], ids=["one length", "padded"])
@pytest.mark.parametrize("position", [0, 2, 8])
def test_an_edit_of_one_position_is_the_same_under_a_cache(padded, position, mask):
    seen = []

    def edit(y, positions):
        seen.append(positions)
        return torch.where((positions == position).unsqueeze(2), y + shift, y)

    padding = torch.zeros(3, dtype=torch.long) if mask is None else (1 - mask).sum(dim=1)
    shift = 30 * torch.randn(padded.cfg.d_model, generator=torch.Generator().manual_seed(0))
    with patched(padded, {"blocks.0.hook_mlp_out": edit}):
        fast, plain = both(padded, IDS, 10, mask=mask, seed=5)
        edited = recomputed(padded, padding)(fast)
    assert torch.equal(fast, plain)
    assert (edited - recomputed(padded, padding)(fast)).abs().max() > 1e-3
    narrow = [p for p in seen if p.shape[1] == 1]
    assert torch.equal(torch.cat(narrow, dim=1), torch.arange(6, 15) - padding[:, None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", [*EVERYWHERE, *OTHERS])
def test_every_architecture_generates_what_recomputation_gives(model_type, tmp_path, caplog):
    """With a cache, apart from the few that return none, or one of which TransformerLens errs."""
    random_model(model_type, tmp_path)
    found = load_model(tmp_path, "cpu", check=False)
    fast, plain = (generate(found, IDS, 20, mask=MASK, cached=cached) for cached in (True, False))
    assert torch.equal(fast, plain)
    without = model_type in ("mamba", "mamba2", "mpt", "openai-gpt")
    assert ("without a key-value cache" in caplog.text) == without


def test_logits_are_those_of_recomputation_in_single_precision(model):
    model = model.float()
    padding = (1 - MASK).sum(dim=1)
    ids = generate(model, IDS, 10, mask=MASK)
    fast, plain = with_cache(model, padding, 16), recomputed(model, padding)
    for end in (6, 7, 11, 16):
        with torch.no_grad():
            torch.testing.assert_close(
                fast(ids[:, :end]), plain(ids[:, :end]), rtol=1e-5, atol=1e-5
            )
    model.double()


def test_what_a_native_model_hands_out_under_a_cache_is_what_it_computes(small):
    """Patterns and everything else at hooks, of a single new token."""
    at = {}
    names = ["blocks.1.attn.hook_pattern", "blocks.1.attn.hook_z", "blocks.0.attn.hook_k"]
    keep = [(name, lambda x, hook, name=name: at.__setitem__(name, x)) for name in names]
    fast = with_cache(small, torch.zeros(3, dtype=torch.long), 6)
    with torch.no_grad(), small.hooks(fwd_hooks=keep):
        fast(IDS[:, :5])
        fast(IDS)
        new = dict(at)
        small(IDS)
    pattern, z, k = (new[name] for name in names)
    torch.testing.assert_close(pattern, at[names[0]][:, :, -1:])
    torch.testing.assert_close(z, at[names[1]][:, -1:])
    torch.testing.assert_close(k, at[names[2]][:, -1:])


def test_edits_of_patterns_act_as_without_a_cache(small, caplog):
    """From TransformerLens 4 on, they reach the output."""

    def first_only(pattern, hook):
        return torch.zeros_like(pattern).index_fill(3, torch.tensor(0), 1.0)

    with small.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", first_only)]):
        fast, plain = (generate(small, IDS, 8, cached=cached) for cached in (True, False))
    assert torch.equal(fast, plain)
    assert not caplog.text


def test_a_seed_decides_and_nothing_else(small):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = generate(small, IDS, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(generate(small, IDS, 10, seed=1), first)
    assert torch.equal(generate(small, IDS, 4, seed=1), first[:, :10])
    assert not torch.equal(generate(small, IDS, 10, seed=2), first)
    alike = generate(small, IDS[:1].expand(3, -1), 10, seed=1, temperature=1, top_p=1)
    assert len({tuple(row.tolist()) for row in alike}) == 3


def test_sequences_stop_and_generation_ends_when_all_have(small):
    free = generate(small, IDS, 20, seed=4)[:, 6:]
    stops = [int(free[0, 2]), int(free[1, 9]), int(free[2, 5])]
    found = generate(small, IDS, 20, seed=4, stop=stops)[:, 6:]
    ends = [next(i for i, token in enumerate(row) if token in stops) for row in free.tolist()]
    assert found.shape[1] == max(ends) + 1 < 20
    for row, expected, end in zip(found, free, ends, strict=True):
        assert torch.equal(row[: end + 1], expected[: end + 1])
        assert (row[end:] == expected[end]).all(), "filled with the token at which it stopped"
    assert torch.equal(found, generate(small, IDS, 20, seed=4, stop=stops, cached=False)[:, 6:])
    one = generate(small, IDS[:1], 20, seed=4, stop=int(IDS[0, -1]), temperature=0.0)
    assert one.shape[1] > 6, "a prompt does not stop itself"


def test_a_model_whose_cache_differs_is_recomputed(native, caplog):
    """Every token of a bidirectional model depends on the new one."""
    model = native(attention_dir="bidirectional", n_ctx=32).double()
    with caplog.at_level(logging.WARNING):
        found = generate(model, IDS, 6)
    assert [record.name for record in caplog.records] == ["dictlearn.lm.generation"]
    assert "other logits follow 6 tokens" in caplog.text
    assert torch.equal(found, generate(model, IDS, 6, cached=False))


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_a_cache_is_recomputed(tmp_path, caplog):
    random_model("mamba", tmp_path)
    model = load_model(tmp_path, "cpu", torch.float64)
    with caplog.at_level(logging.WARNING, logger="dictlearn"):
        found = generate(model, IDS, 4, temperature=0.0, mask=MASK)
    assert caplog.text.count("without a key-value cache, since with it") == 1
    for row, kept in zip(found, MASK.sum(dim=1).tolist(), strict=True):
        alone = generate(model, row[None, 6 - kept : 6], 4, temperature=0.0, cached=False)
        assert torch.equal(alone[0], row[6 - kept :])


def test_a_difference_that_shows_late_is_seen(small, caplog):
    """A function that sees only the new tokens, and acts once there are many."""

    def many(y, positions):
        return y * (1.0 + 3.0 * (y.shape[1] >= 12))

    with patched(small, {"blocks.0.hook_mlp_out": many}):
        found = generate(small, IDS, 10, temperature=0.0)
        assert "other logits follow 15 tokens" in caplog.text
        assert torch.equal(found, generate(small, IDS, 10, temperature=0.0, cached=False))


def test_a_function_that_fails_on_single_tokens_is_given_all(small, caplog):
    with patched(small, {"blocks.0.hook_mlp_out": lambda y, positions: y + y[:, [1]]}):
        found = generate(small, IDS, 5)
        assert "the model fails (IndexError: index 1 is out of bounds" in caplog.text
        assert torch.equal(found, generate(small, IDS, 5, cached=False))


def test_one_switch_turns_the_cache_off(small):
    widths = []
    with (
        without_shortcuts(),
        patched(small, {"blocks.0.hook_mlp_out": lambda y, positions: widths.append(y.shape[1])}),
    ):
        generate(small, IDS, 4)
    assert widths == [6, 7, 8, 9]


def test_mistakes_at_hooks_are_told_and_leave_nothing(small):
    with (
        pytest.raises(InputError, match="required an activation of shape"),
        patched(small, {"blocks.0.hook_mlp_out": lambda y, positions: y[:, :, 1:]}),
    ):
        generate(small, IDS, 3)
    with (
        pytest.raises(NonFiniteError, match="got nan in sequence 0"),
        patched(small, {"blocks.0.hook_mlp_out": lambda y, positions: y * torch.nan}),
    ):
        generate(small, IDS, 3)
    assert all("forward" not in vars(module) for module in small.modules())
    assert activations_at(small, IDS, ["blocks.0.hook_mlp_out"])


def test_the_context_is_filled_and_not_exceeded(small):
    assert generate(small, IDS, 26).shape == (3, 32)
    ran = []
    with (
        pytest.raises(InputError, match=r"at most 32 tokens .* set n_new to 26 or less"),
        patched(small, {"blocks.0.hook_mlp_out": lambda y, positions: ran.append(1)}),
    ):
        generate(small, IDS, 27)
    assert not ran


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": IDS[0]}, r"ids of shape \[b, pos\], got \[6\] of torch.int64"),
        ({"ids": IDS.float()}, r"got \[3, 6\] of torch.float32"),
        ({"ids": "Once"}, r"of shape \[b, pos\], got 'Once'"),
        ({"ids": IDS[:, :0]}, r"at least 1 token, got ids of shape \[3, 0\]"),
        ({"ids": IDS[:0]}, r"at least 1 token, got ids of shape \[0, 6\]"),
        ({"ids": IDS + 30}, "from 0 to 39, the vocabulary"),
        ({"ids": IDS - 30}, "from 0 to 39, the vocabulary"),
        ({"n_new": 0}, "n_new of at least 1, got 0"),
        ({"n_new": 2.0}, "n_new of at least 1, got 2.0"),
        ({"n_new": True}, "n_new of at least 1, got True"),
        ({"n_new": None}, "n_new of at least 1, got None"),
        ({"ids": MASK.bool()}, r"ids of shape \[b, pos\], got \[3, 6\] of torch.bool"),
        ({"seed": 1.5}, "a whole number of 64 bits as seed, got 1.5"),
        ({"seed": None}, "a whole number of 64 bits as seed, got None"),
        ({"seed": 2**64}, "a whole number of 64 bits as seed, got 1844"),
        ({"temperature": None}, "a temperature of at least 0, got None"),
        ({"temperature": "1"}, "a temperature of at least 0, got '1'"),
        ({"temperature": True}, "a temperature of at least 0, got True"),
        ({"top_p": None}, "a top_p above 0 and at most 1, got None"),
        ({"top_p": True}, "a top_p above 0 and at most 1, got True"),
        ({"stop": True}, "stop tokens from 0 to 39.*got True"),
        ({"stop": torch.tensor([True])}, "stop tokens from 0 to 39"),
        ({"stop": 3.0}, "stop tokens from 0 to 39.*got 3.0"),
        ({"stop": torch.tensor(40)}, "stop tokens from 0 to 39"),
        ({"temperature": -0.1}, "a temperature of at least 0, got -0.1"),
        ({"temperature": float("nan")}, "a temperature of at least 0, got nan"),
        ({"temperature": float("inf")}, "a temperature of at least 0, got inf"),
        ({"top_p": 0.0}, "a top_p above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "a top_p above 0 and at most 1, got 1.5"),
        ({"stop": 40}, "stop tokens from 0 to 39"),
        ({"stop": [1, "a"]}, "stop tokens from 0 to 39"),
        ({"mask": MASK[:, 1:]}, r"a mask of the shape of the ids, \[3, 6\], got \[3, 5\]"),
        ({"mask": [1, 0]}, r"a mask of the shape of the ids"),
        ({"mask": MASK.flip(1)}, "padding on the left"),
        ({"mask": MASK * 0}, "a token at the end of each"),
        ({"model": "builtin:stories"}, "a model with TransformerLens hooks"),
    ],
)
def test_bad_input_is_refused(small, change, message):
    with pytest.raises(InputError, match=message):
        generate(**({"model": small, "ids": IDS, "n_new": 2} | change))


@pytest.mark.untyped
def test_numbers_are_those_of_any_type(small):
    """Of numpy, and tensors: the same texts as with numbers of Python."""
    free = generate(small, IDS, 4, seed=1, temperature=0.5, top_p=0.75)
    token = int(free[0, 6])
    plain = generate(small, IDS, 4, seed=1, temperature=0.5, top_p=0.75, stop=token)
    assert not torch.equal(plain, free)
    for some in (torch.tensor, np.array):
        found = generate(
            small, IDS.int(), some(4), seed=some(1), temperature=some(0.5), top_p=some(0.75),
            stop=some(token),
        )  # fmt: skip
        assert torch.equal(found, plain)
        for several in (some([token]), [some(token)], {token}):
            found = generate(small, IDS, 4, seed=1, temperature=0.5, top_p=0.75, stop=several)
            assert torch.equal(found, plain)
    assert torch.equal(generate(small, IDS, 4, stop=[]), generate(small, IDS, 4))


def test_the_built_in_model_tells_a_story():
    model = dl.load_model("builtin:stories")
    batch = model.tokenizer(
        ["Once upon a time", "One day"], return_tensors="pt", padding=True, padding_side="left"
    )
    found = dl.generate(model, batch.input_ids, 30, mask=batch.attention_mask, temperature=0.0)
    text = model.tokenizer.batch_decode(found, skip_special_tokens=True)
    assert text[0].startswith("Once upon a time, there was a little")
    assert text[1].startswith("One day, Tim")
