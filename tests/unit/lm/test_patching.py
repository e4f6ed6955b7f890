"""Functions at hooks: what they see and write, with gradients, in order, and under a cache."""

import numpy as np
import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import activations_at, logits_and_activations
from dictlearn.lm.patching import patched

MLP, Z, PATTERN = "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A random GPT-2, as a bridge: it generates with a cache."""
    from transformer_lens.model_bridge import TransformerBridge

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("gpt2")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), device="cpu").eval()


def test_what_a_function_returns_takes_the_place_of_the_activation(model, ids):
    _, at = logits_and_activations(model, ids, [MLP])
    seen = []
    with patched(model, {MLP: lambda y, positions: seen.append((y, positions))}):
        untouched = model(ids)
    assert torch.equal(untouched, model(ids)), "None leaves everything as it is"
    assert torch.equal(seen[0][0], at[MLP])
    assert torch.equal(seen[0][1], torch.arange(12).expand(3, 12))
    with patched(model, {MLP: lambda y, positions: y * (positions >= 5).unsqueeze(2)}):
        late = model(ids)
    assert not torch.equal(late[:, :5], untouched[:, :5])
    assert torch.equal(model(ids), untouched), "nothing is left"


def test_functions_at_one_hook_run_in_order(model, ids):
    add, double = (lambda y, positions: y + 1), (lambda y, positions: 2 * y)
    with patched(model, {MLP: [add, double]}):
        both = model(ids)
    with patched(model, {MLP: lambda y, positions: 2 * (y + 1)}):
        assert torch.equal(model(ids), both)
    with patched(model, {MLP: add}), patched(model, {MLP: double}):
        assert torch.equal(model(ids), both), "one inside the other comes later"


@pytest.mark.parametrize("hook", [MLP, Z])
def test_gradients_flow_through_functions_and_into_what_they_read(model, ids, hook):
    """Against finite differences, in float64; heads are flattened and restored."""
    model = model.double().requires_grad_(True)
    shift = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    read = []

    def add(y, positions):
        read.append(y)
        return y + shift

    def loss():
        with patched(model, {hook: add}):
            return model(ids).square().mean()

    value = loss()
    by_shift, by_read = torch.autograd.grad(value, [shift, read[0]])
    assert read[0].shape == (3, 12, 16)
    torch.testing.assert_close(by_read.sum(dim=(0, 1)), by_shift)
    step = 1e-6
    for i in (0, 9):
        with torch.no_grad():
            shift[i] += step
            higher = loss()
            shift[i] -= 2 * step
            lower = loss()
            shift[i] += step
        torch.testing.assert_close((higher - lower) / (2 * step), by_shift[i], rtol=1e-4, atol=1e-9)
    model.float().requires_grad_(False)


def test_what_is_only_read_is_part_of_the_graph(model, ids):
    """At hook_z, where a model hands out a view, reading it alone must not cut it off."""
    model.requires_grad_(True)
    read = []
    with patched(model, {Z: lambda y, positions: read.append(y)}):
        loss = model(ids).square().mean()
    (gradient,) = torch.autograd.grad(loss, read[0])
    assert (gradient != 0).any()
    model.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_is_restored(native, ids, dtype):
    model = native().to(dtype)
    with patched(model, {MLP: lambda y, positions: y.double()}):
        assert torch.equal(model(ids), model(ids))


def test_mistakes_are_told_and_leave_nothing(model, ids):
    clean = model(ids)
    with pytest.raises(InputError, match="no hook"), patched(model, {"blocks.0.hook_mlp": print}):
        pass
    with (
        pytest.raises(InputError, match=r"required an activation of shape \[3, 12, 16\]"),
        patched(model, {MLP: lambda y, positions: y[:, :1]}),
    ):
        model(ids)
    with (
        pytest.raises(InputError, match="one vector for every"),
        patched(model, {PATTERN: lambda y, positions: y}),
    ):
        model(ids)
    with pytest.raises(ZeroDivisionError), patched(model, {MLP: lambda y, positions: 1 // 0}):
        model(ids)
    assert torch.equal(model(ids), clean)
    assert set(activations_at(model, ids, [MLP])) == {MLP}


@pytest.mark.untyped
def test_what_is_no_function_is_refused_on_entry(model):
    for wrong in (None, "scale", [None], ["scale"], 3):
        with pytest.raises(InputError, match=r"at 'blocks\.0\.hook_mlp_out': required a function"):
            patched(model, {MLP: wrong}).__enter__()
    for wrong in ([(MLP, print)], MLP, None):
        with pytest.raises(InputError, match="a dict of functions by hook"):
            patched(model, wrong).__enter__()
    with pytest.raises(InputError, match="a model with TransformerLens hooks"):
        patched("builtin:stories", {MLP: print}).__enter__()


@pytest.mark.parametrize("wrong", [0.0, (torch.zeros(3, 12, 16),), np.zeros((3, 12, 16)), True])
def test_a_result_that_is_no_tensor_is_refused(model, ids, wrong):
    with (
        patched(model, {MLP: lambda y, positions: wrong}),
        pytest.raises(InputError, match=r"at 'blocks\.0\.hook_mlp_out': required a tensor or None"),
    ):
        model(ids)


def test_a_single_sequence_may_lack_its_axis(model, ids):
    seen = []
    with patched(model, {MLP: lambda y, positions: seen.append(positions)}):
        model(ids[0])
    assert seen[0].tolist() == [list(range(12))]


@pytest.fixture
def old(hooked_transformer):
    """A `HookedTransformer` with the built-in tokenizer, which pads on the left."""
    from importlib.resources import files

    from transformers import PreTrainedTokenizerFast

    file = str(files("dictlearn.assets") / "stories" / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=file, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    model = hooked_transformer(d_vocab=len(tokenizer), default_prepend_bos=False)
    model.tokenizer, tokenizer.padding_side = tokenizer, "left"
    return model


@pytest.mark.filterwarnings("ignore:.*HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*HookedTransformer:FutureWarning")
def test_a_hooked_transformer_generates_and_takes_single_sequences(old):
    ids = torch.randint(1, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    seen = []

    def late(y, positions):
        seen.append(positions.clone())
        return torch.where((positions >= 6).unsqueeze(2), y + 3 * (positions % 3).unsqueeze(2), y)

    generate = {"max_new_tokens": 4, "do_sample": False, "verbose": False, "stop_at_eos": False}
    with patched(old, {MLP: late}):
        cached = old.generate(ids, use_past_kv_cache=True, **generate)
        assert [p.tolist() for p in seen[:2]] == [[[0, 1, 2, 3, 4]] * 2, [[5]] * 2]
        whole = old.generate(ids, use_past_kv_cache=False, **generate)
        assert seen[-1].shape == (2, 8)
        with patched(old, {MLP: late}):
            old(ids[0])
        assert seen[-2].tolist() == seen[-1].tolist() == [[0, 1, 2, 3, 4]]
        old(ids)
        assert seen[-1].shape == (2, 5), "the one outside is still there"
        padded = torch.tensor([[old.tokenizer.pad_token_id] * 2 + [5, 6], [5, 6, 7, 8]])
        old(padded)
        assert seen[-1].tolist() == [[-2, -1, 0, 1], [0, 1, 2, 3]]
        for text in ("Once upon", ["Once", "upon"]):
            with pytest.raises(InputError, match=r"got (str|list); model\.to_tokens"):
                old(text)
    assert torch.equal(cached, whole)
    assert "forward" not in vars(old)


def test_positions_count_on_through_a_cache(gpt2):
    """Generation with a cache gives the tokens that recomputing everything gives."""
    ids = torch.randint(1, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    seen = []

    def late(y, positions):
        seen.append(positions.clone())
        return torch.where((positions >= 6).unsqueeze(2), y + 3 * (positions % 3).unsqueeze(2), y)

    with patched(gpt2, {MLP: late}), torch.no_grad():
        cached = gpt2.generate(
            ids, max_new_tokens=6, do_sample=False, verbose=False, use_past_kv_cache=True,
            stop_at_eos=False, return_type="tokens",
        )  # fmt: skip
        assert [p.shape[1] for p in seen[:3]] == [5, 1, 1]
        assert [int(p[0, 0]) for p in seen[:4]] == [0, 5, 6, 7]
        again = ids
        for _ in range(6):
            again = torch.cat([again, gpt2(again)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(cached, again)


def test_positions_begin_behind_padding_on_the_left(gpt2):
    ids = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    seen = []
    with patched(gpt2, {MLP: lambda y, positions: seen.append(positions)}), torch.no_grad():
        gpt2(ids, attention_mask=mask)
    assert seen[0].tolist() == [[-2, -1, 0, 1, 2], [0, 1, 2, 3, 4]]
