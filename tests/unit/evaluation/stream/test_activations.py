"""Batches of activations beside one plain pass, and a model that is left as it was found."""

from contextlib import suppress

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import NonFiniteError
from dictlearn.core.shortcuts import without_shortcuts
from dictlearn.evaluation.stream.activations import ActivationStream, on_cpu
from dictlearn.lm.attention import FusedAttention
from dictlearn.lm.forward import activations_at
from dictlearn.lm.sites import hook_sites

HOOKS = ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


class Halves(FeatureDictionary):
    """Two features a dimension: its positive and its negative part."""

    def __init__(self, sites):
        d = sites.source.d
        super().__init__(sites, 2 * d)
        self.register_buffer("_atoms", torch.cat([torch.eye(d), -torch.eye(d)]))

    def _encode(self, z):
        return torch.cat([z, -z], dim=1).relu()


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 40, (7, 12), generator=torch.Generator().manual_seed(0))


def functions_left(model) -> int:
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_batches_hold_the_counted_rows_of_one_plain_pass(model, ids, batch_size):
    counted = ids > 4
    expected = activations_at(model, ids, HOOKS)
    dictionary = Halves(hook_sites(model, HOOKS[0]))
    stream = ActivationStream(model, ids, counted, [*HOOKS, HOOKS[0]], batch_size)
    for _ in range(2):
        with stream.batches() as found:
            batches = list(found)
        assert len(batches) == len(stream.parts) == -(-7 // batch_size)
        for hook in HOOKS:
            rows = torch.cat([batch.rows(hook) for batch in batches])
            torch.testing.assert_close(rows, expected[hook][counted])
        acts = torch.cat([on_cpu(batch.encode(dictionary)).to_dense() for batch in batches])
        torch.testing.assert_close(acts, dictionary.encode(expected[HOOKS[0]][counted]))
    chosen = torch.tensor([5, 0])
    found = stream.activations_of(chosen)
    torch.testing.assert_close(found[HOOKS[1]], expected[HOOKS[1]][chosen])


def test_no_function_stays_at_a_hook_when_a_pass_is_abandoned(model, ids):
    before = functions_left(model)
    stream = ActivationStream(model, ids, ids > 0, HOOKS, 2)
    with stream.batches() as batches:
        next(batches)
        assert functions_left(model) > before
    assert functions_left(model) == before
    with suppress(RuntimeError), stream.batches() as batches:
        next(batches)
        raise RuntimeError("stop")
    assert functions_left(model) == before


def test_attention_runs_fused_unless_none_is_given(model, ids):
    for batch_size in (2, 7):
        stream = ActivationStream(model, ids, ids > 0, HOOKS, batch_size)
        with stream.batches() as batches:
            next(batches)
        assert len(stream._attention.used) == 2
    with ActivationStream(model, ids, ids > 0, HOOKS, 7, FusedAttention()).batches() as batches:
        found = next(batches).at
    expected = activations_at(model, ids, HOOKS)
    assert all(torch.equal(found[hook], expected[hook]) for hook in HOOKS)


def test_shortcuts_can_be_switched_off(model, ids):
    with without_shortcuts(), ActivationStream(model, ids, ids > 0, HOOKS, 7).batches() as batches:
        plain = next(batches).at
    expected = activations_at(model, ids, HOOKS)
    for hook in HOOKS:
        assert torch.equal(plain[hook], expected[hook])


def test_activations_that_are_not_finite_are_named(native, ids):
    model = native()
    with torch.no_grad():
        model.embed.W_E[7] = torch.inf
    ids = torch.ones_like(ids)
    ids[4, 3] = 7
    stream = ActivationStream(model, ids, ids > 0, ["hook_embed"], 2)
    with stream.batches() as batches:
        first, second, third, _ = batches
    assert first.rows("hook_embed").isfinite().all()
    assert second.rows("hook_embed").isfinite().all()
    with pytest.raises(NonFiniteError, match=r"'hook_embed', sequences from 4.*row 3"):
        third.rows("hook_embed")


def test_no_sequences_are_no_batches(model, ids):
    with ActivationStream(model, ids[:0], ids[:0] > 0, HOOKS, 2).batches() as batches:
        assert list(batches) == []
