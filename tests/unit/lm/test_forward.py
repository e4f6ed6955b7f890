import json
from contextlib import suppress

import pytest
import torch
from torch.nn.functional import cross_entropy

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import activations_at, logits_and_activations, reading
from dictlearn.lm.hooks import hook_names
from dictlearn.lm.loading import load_model
from dictlearn.lm.patching import spliced_logits


@pytest.fixture(scope="module", params=["native", "gated", "hooked_transformer"])
def model(request: pytest.FixtureRequest, native, hooked_transformer):
    if request.param == "native":
        return native()
    if request.param == "gated":
        return native(gated_mlp=True, act_fn="silu", normalization_type="RMS")
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        return hooked_transformer()


def rows(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What TransformerLens itself caches, head axes flattened, where it has one row a token."""
    _, cache = model.run_with_cache(ids)
    shapes = {name: cache[name].shape for name in cache}
    good = [
        n for n, s in shapes.items() if s[:2] == ids.shape and len(s) > 2 and "pattern" not in n
    ]
    return {name: cache[name].flatten(2) for name in good}


def test_activations_are_those_of_transformer_lens(model, ids) -> None:
    known = rows(model, ids)
    assert len(known) > 20
    together = activations_at(model, ids, list(known))
    assert together.keys() == known.keys()
    assert all(torch.equal(together[name], known[name]) for name in known)
    for name in ("blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"):
        assert torch.equal(activations_at(model, ids, [name])[name], known[name])


def test_a_pass_cut_short_leaves_no_trace(model, ids) -> None:
    clean = model(ids)
    for name in [name for name in rows(model, ids) if "blocks.0" in name or "final" in name]:
        activations_at(model, ids, [name])
        assert torch.equal(model(ids), clean), name
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_hooks_are_set_once_for_many_passes(model, ids) -> None:
    names = ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre"]
    inputs = (ids, ids[:1], ids[:, :5])
    expected = [activations_at(model, some, names) for some in inputs]
    with reading(model, names) as read:
        for some, at in zip(inputs, expected, strict=True):
            assert all(torch.equal(x, at[name]) for name, x in read(some).items())
    with pytest.raises(ZeroDivisionError), reading(model, names):
        raise ZeroDivisionError
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_nothing_deeper_is_computed(model, ids) -> None:
    fired: list[str] = []

    def note(activation, hook) -> None:
        fired.append(hook.name)

    deeper = ["blocks.1.ln2.hook_normalized", "ln_final.hook_normalized"]
    unembedded = []
    handle = model.unembed.register_forward_hook(lambda *_: unembedded.append(1))
    with model.hooks(fwd_hooks=[(name, note) for name in ["blocks.0.hook_attn_out", *deeper]]):
        activations_at(model, ids, ["blocks.0.hook_mlp_out"])
        assert len(fired) == 1
        assert not unembedded
        model(ids)
        assert len(fired) == 4
        assert unembedded
    handle.remove()


def test_alias_and_hook_are_read_together(native, ids) -> None:
    names = ["blocks.0.mlp.hook_out", "blocks.0.hook_mlp_out", "blocks.0.hook_mlp_out"]
    at = activations_at(native(), ids, names)
    assert at.keys() == set(names)
    assert torch.equal(at[names[0]], at[names[1]])


def test_head_axes_are_flattened(model, ids) -> None:
    z = activations_at(model, ids, ["blocks.0.attn.hook_z"])["blocks.0.attn.hook_z"]
    assert z.shape == (*ids.shape, 16)
    assert not z.requires_grad


def test_logits_are_clean(model, ids) -> None:
    logits, at = logits_and_activations(model, ids, ["blocks.1.hook_mlp_out"])
    assert torch.equal(logits, model(ids))
    assert torch.equal(
        at["blocks.1.hook_mlp_out"],
        activations_at(model, ids, ["blocks.1.hook_mlp_out"])["blocks.1.hook_mlp_out"],
    )
    assert logits_and_activations(model, ids, [])[1] == {}


@pytest.mark.parametrize("hook", ["blocks.0.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_splicing_the_clean_activation_changes_nothing(model, ids, hook: str) -> None:
    logits, at = logits_and_activations(model, ids, [hook])
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    assert torch.equal(spliced_logits(model, ids, hook, at[hook], everywhere), logits)
    zeros = torch.zeros_like(at[hook])
    assert torch.equal(spliced_logits(model, ids, hook, zeros, ~everywhere), logits)
    double = at[hook].double()
    assert torch.equal(spliced_logits(model, ids, hook, double, everywhere), logits)


def test_splice_acts_only_where_asked(model, ids) -> None:
    hook = "blocks.0.hook_mlp_out"
    logits, at = logits_and_activations(model, ids, [hook])
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[1, 5] = True
    spliced = spliced_logits(model, ids, hook, torch.zeros_like(at[hook]), where)
    changed = (spliced != logits).any(dim=-1)
    assert changed[1, 5:].all()
    assert changed.sum() == ids.shape[1] - 5


def test_splicing_zero_equals_an_mlp_without_output(native, ids) -> None:
    model, hook = native(), "blocks.1.mlp.hook_out"
    zeros = torch.zeros(*ids.shape, 16)
    spliced = spliced_logits(model, ids, hook, zeros, torch.ones_like(ids, dtype=torch.bool))
    model.blocks[1].mlp.W_out.zero_()
    model.blocks[1].mlp.b_out.zero_()
    torch.testing.assert_close(spliced, model(ids), atol=1e-5, rtol=0)


def test_bad_hooks(model, ids) -> None:
    with pytest.raises(InputError, match=r"no hook 'blocks\.9"):
        activations_at(model, ids, ["blocks.9.hook_mlp_out"])
    with pytest.raises(InputError, match=r"shape \[b, pos, \.\.\.\].*got \[3, 2, 12, 12\]"):
        activations_at(model, ids, ["blocks.0.attn.hook_pattern"])
    with pytest.raises(InputError, match=r"never computed|use_attn_result"):
        activations_at(model, ids, ["blocks.0.attn.hook_result"])
    with pytest.raises(InputError, match=r"replacement of shape \(3, 12, 16\).*got \(3, 12, 15\)"):
        spliced_logits(model, ids, "blocks.0.hook_mlp_out", torch.zeros(3, 12, 15), ids > 0)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.slow
def test_stories15m_has_the_published_loss(shared) -> None:
    model = load_model(shared("models/stories15M"), "cpu")
    lines = shared("text/stories_real.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    nats = n = 0.0
    with torch.no_grad():
        for line in lines:
            text = model.tokenizer(json.loads(line), add_special_tokens=False).input_ids
            tokens = torch.tensor([[model.tokenizer.bos_token_id, *text][:256]])
            logits = model(tokens)[0, :-1]
            nats += float(cross_entropy(logits, tokens[0, 1:], reduction="sum"))
            n += tokens.shape[1] - 1
    assert n == 41_990
    assert nats / n == pytest.approx(1.785, abs=0.01)


def test_every_hook_is_read_or_refused(model, ids) -> None:
    """No hook makes the reader fail in a way of its own."""
    for name in [name for name in hook_names(model) if "blocks.1" not in name]:
        with suppress(InputError):
            assert activations_at(model, ids, [name])[name].shape[:2] == ids.shape
