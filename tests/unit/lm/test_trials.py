"""Shortcuts are taken where they hold, left out with a line in the log where they do not."""

from collections import Counter

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.shortcuts import SWITCH, without_shortcuts
from dictlearn.lm import trials
from dictlearn.lm.attention import _AGREES, _Fused, fusable_attention
from dictlearn.lm.forward import activations_at
from dictlearn.lm.trials import splicer_with_shortcuts

MLP = "blocks.0.hook_mlp_out"
ALL = ["fused attention", "unembedding of counted rows", "remembered outputs"]


@pytest.fixture
def model(native):
    return native()


def taken(model, ids, targets=(MLP,)):
    """The shortcuts that a pass over the ids takes."""
    splicer = splicer_with_shortcuts(model, list(targets), [(hook,) for hook in targets], ids)
    assert "fused attention" not in splicer.shortcuts.names, "a trial is no use"
    with splicer:
        splicer.clean(ids, ids >= 0)
    return splicer.shortcuts.names


def test_all_are_taken_where_all_hold(model, ids, caplog):
    assert taken(model, ids) == ALL
    assert not caplog.records


def test_one_switch_turns_all_off(model, ids, monkeypatch):
    with without_shortcuts():
        assert taken(model, ids) == []
        assert len(fusable_attention(model)) == 0
    assert taken(model, ids) == ALL
    monkeypatch.setenv(SWITCH, "off")
    assert taken(model, ids) == []


def test_a_memory_of_what_depends_on_the_splice_is_not_used(model, ids, monkeypatch, caplog):
    """With everything after the hook remembered too, a splice would change nothing."""
    everything = {block: block for block in model.blocks}
    monkeypatch.setattr(
        trials, "routes_to", lambda model, ids, hooks: {target: everything for target in hooks}
    )
    assert taken(model, ids) == ALL[:2]
    assert f"the modules before {MLP}" in caplog.text


def test_a_head_that_is_not_the_last_is_not_split_off(model, ids, monkeypatch, caplog):
    final = model.unembed.register_forward_hook(
        lambda module, args, logits: 30 * (logits / 30).tanh()
    )
    try:
        assert taken(model, ids) == [ALL[0], ALL[2]]
    finally:
        final.remove()
    assert "an unembedding of some rows only" in caplog.text


def test_attention_that_only_fails_in_company_is_not_fused(model, ids, monkeypatch, caplog):
    """A module may give the same alone and not in a pass: here, wrong the second time it runs."""

    output, runs = _Fused.output, Counter()

    def second(self, q, k, v):
        runs[self.module] += 1
        found = output(self, q, k, v)
        return found if runs[self.module] == 1 else 2 * found

    monkeypatch.setattr(_Fused, "output", second)
    assert taken(model, ids) == ALL[1:]
    assert "fused attention" in caplog.text


def test_a_trial_takes_few_tokens_however_many_there_are(native):
    """Whether attention may be fused is then seen at the length of the sequences themselves."""
    model, lengths = native(n_ctx=40), []
    model.blocks[0].mlp.register_forward_pre_hook(
        lambda module, args: lengths.append(tuple(args[0].shape[:2]))
    )
    ids = torch.arange(9 * 40).view(9, 40) % 40
    assert taken(model, ids) == ALL
    assert lengths.pop() == (9, 40), "the clean pass"
    assert set(lengths) == {(4, 16)}
    assert {case[0] for case in _AGREES[model.blocks[0].attn]} == {16, 40}


def test_a_hook_that_is_not_alone_is_refused(model, ids):
    """What fires twice in a pass with different values cannot be put in its own place."""
    block = model.blocks[1]
    hook = next(
        name
        for name in model.hook_dict
        if name.startswith("blocks.1.mlp.") and name.endswith("hook_out")
    )
    twice = block.mlp.register_forward_hook(lambda module, args, y: model.hook_dict[hook](2 * y))
    try:
        with pytest.raises(InputError, match=r"put in its own place, changes the predictions by"):
            taken(model, ids, [hook])
        with without_shortcuts(), pytest.raises(InputError, match="choose another hook"):
            taken(model, ids, [hook])
    finally:
        twice.remove()
    activations_at(model, ids, [hook])
