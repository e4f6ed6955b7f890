"""Spliced passes that start in the middle, against full ones, on every class of model."""

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import logits_and_activations
from dictlearn.lm.loading import load_model
from dictlearn.lm.patching import spliced_logits
from dictlearn.lm.trials import splicer_with_shortcuts

HOOKS = (
    "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", "blocks.0.hook_attn_out",
    "blocks.1.hook_attn_out", "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post",
)  # fmt: skip


@pytest.fixture(scope="module", params=["native", "hooked_transformer", "builtin"])
def model(request, native, hooked_transformer):
    if request.param == "builtin":
        return load_model("builtin:stories")
    if request.param == "native":
        return native()
    with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
        return hooked_transformer()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(2, 40, (3, 10), generator=torch.Generator().manual_seed(0))


def logits_of(splicer, model, rows):
    return splicer.logits(rows, slice(0, model.cfg.d_vocab))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_splice_equals_the_full_pass(model, tokens, hook):
    wanted = torch.rand(3, 10, generator=torch.Generator().manual_seed(1)) < 0.6
    where = torch.rand(3, 10, generator=torch.Generator().manual_seed(2)) < 0.7
    full, at = logits_and_activations(model, tokens, [hook])
    with splicer_with_shortcuts(model, [hook], [(hook,)], tokens) as splicer:
        clean = splicer.clean(tokens, wanted)
        torch.testing.assert_close(clean.at[hook], at[hook])
        close = {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(logits_of(splicer, model, clean.rows), full[wanted], **close)
        for seed in range(2):
            noise = torch.randn(at[hook].shape, generator=torch.Generator().manual_seed(seed))
            expected = spliced_logits(model, tokens, hook, noise, where)[wanted]
            rows = splicer.spliced(clean, {hook: noise}, where)
            torch.testing.assert_close(logits_of(splicer, model, rows), expected, **close)
        again = splicer.spliced(clean, {hook: at[hook]}, where)
        torch.testing.assert_close(logits_of(splicer, model, again), full[wanted], **close)


def test_the_shortcuts_are_taken_and_leave_no_trace(model, tokens):
    hook = "blocks.1.hook_mlp_out"
    before, _ = logits_and_activations(model, tokens, [hook])
    everywhere = torch.ones(3, 10, dtype=torch.bool)
    with splicer_with_shortcuts(model, [hook], [(hook,)], tokens) as splicer:
        clean = splicer.clean(tokens, everywhere)
        assert splicer.d_row == model.cfg.d_model  # no logits until they are asked for
        ran = []
        first = model.blocks[0].register_forward_hook(lambda *_: ran.append("hooks still fire"))
        attention = model.blocks[0].mlp
        handle = attention.register_forward_hook(lambda *_: ran.append("mlp 0"))
        splicer.spliced(clean, {hook: torch.zeros_like(clean.at[hook])}, everywhere)
        first.remove()
        handle.remove()
        assert "mlp 0" not in ran
    after, _ = logits_and_activations(model, tokens, [hook])
    assert torch.equal(before, after)


def test_a_wrong_shape_is_refused(model, tokens):
    hook = "blocks.0.hook_mlp_out"
    everywhere = torch.ones(3, 10, dtype=torch.bool)
    with splicer_with_shortcuts(model, [hook], [(hook,)], tokens) as splicer:
        clean = splicer.clean(tokens, everywhere)
        with pytest.raises(InputError, match="required a replacement"):
            splicer.spliced(clean, {hook: torch.zeros(3, 10, 3)}, everywhere)
