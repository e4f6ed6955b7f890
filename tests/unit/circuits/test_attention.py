"""`explain_attention`: scores as sums over pairs of nodes."""

import math
import warnings

import pytest
import torch
import transformers

from dictlearn.circuits import attention as module
from dictlearn.circuits.attention import explain_attention
from dictlearn.circuits.local_model import local_model
from dictlearn.circuits.nodes import NodeKind
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.lm.attention import score_cap
from dictlearn.lm.hooks import hooked
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.patching import patched
from tests.unit.circuits.conftest import standardized
from tests.unit.lm.architectures import small_config

OTHER = {"allow_other_model": True}
ROUNDING = 1e-5  # some models compute norms and patterns in float32
AT = {"layer": 1, "head": 1, "query": 6}
PATTERN, SCORES = "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"


def scores_of(model, prompt, held=(), leaves=None):
    """The scores of a head before caps, up to a constant: from hooks, or log patterns."""
    at = {}

    def keep(activation, hook):
        at[hook.name] = activation[0, AT["head"], AT["query"], : AT["query"] + 1]

    patches = {h: lambda y, positions, leaf=leaf: leaf[None] for h, leaf in (leaves or {}).items()}
    holds = [(name, lambda a, hook, value=value: value) for name, value in held]
    holds += [(name, keep) for name in (PATTERN, SCORES)]
    with warnings.catch_warnings(), torch.no_grad(), patched(model, patches), hooked(model, holds):
        warnings.simplefilter("ignore")
        model(prompt[None])
    cap = score_cap(model)
    return cap * (at[SCORES] / cap).atanh() if cap else at[PATTERN].log()


def model_type(model):
    """The architecture of a model of transformers; None of others."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return getattr(config, "model_type", None)


@pytest.mark.parametrize("title", ["nothing", "transcoders", "a skip", "a mixture"])
def test_pairs_add_up_to_the_score(model, mixes, prompt, title):
    whole = [explain_attention(model, prompt, mixes[title], **AT, key=key, **OTHER)
             for key in (0, 2, 5)]  # fmt: skip
    for found in whole:
        assert float(found.matrix().sum()) == pytest.approx(found.value, rel=1e-9)
        assert found.sum() == pytest.approx(found.value, rel=1e-9)
        for side in found.marginals():
            assert float(side.sum()) == pytest.approx(found.value, rel=1e-9)
    scores = torch.tensor([found.value for found in whole], dtype=torch.float64)
    seen = scores_of(model, prompt)[[0, 2, 5]]
    gaps = (scores - scores[0]) - (seen - seen[0])
    assert float(gaps.abs().max() / scores.abs().max()) < ROUNDING


def test_contrasts_are_differences_of_scores(model, mixes, prompt):
    def of(key, minus=None):
        found = explain_attention(
            model, prompt, mixes["transcoders"], **AT, key=key, minus=minus, **OTHER
        )
        assert float(found.matrix().sum()) == pytest.approx(found.value, rel=1e-9)
        return found

    scores = [of(key).value for key in range(7)]
    assert of(2, minus=4).value == pytest.approx(scores[2] - scores[4], rel=1e-9)
    mean = (sum(scores) - scores[2]) / 6
    assert of(2, minus="mean").value == pytest.approx(scores[2] - mean, rel=1e-9)
    assert of(None).key == max(range(7), key=scores.__getitem__)


def test_a_row_is_an_intervention_with_all_else_held(model, mixes, prompt):
    """Without a feature of layer 0, with keys held, the score loses the row of the feature, and
    with queries held its column: by the model's own pattern."""
    own, (key, minus) = {"mlp0": mixes["transcoders"]["mlp0"]}, (3, 5)
    found = explain_attention(model, prompt, own, **AT, key=key, minus=minus, **OTHER)
    with local_model(model, prompt, own) as local:
        held = {hook: value.clone() for hook, value in local.run.held.items()}
        leaves = {hook: leaf.detach().clone() for hook, leaf in local.run.leaves.items()}
    features = found.nodes.of_kind(NodeKind.FEATURE)
    (hook,) = own["mlp0"].sites.target.hooks
    for end, other, side in zip("qk", "kq", found.marginals(), strict=True):
        at = held.copy()
        del at[f"blocks.1.attn.hook_{end}"]
        assert f"blocks.1.attn.hook_{other}" in at
        for node in side.abs().masked_fill(~features, 0).topk(3).indices.tolist():
            changed = {name: leaf.clone() for name, leaf in leaves.items()}
            written = own["mlp0"].atoms[found.nodes.features[node]] * found.nodes.values[node]
            changed[hook][found.nodes.positions[node]] -= written
            seen = scores_of(model, prompt, at.items(), changed)
            gap = float(seen[key] - seen[minus]) - (found.value - float(side[node]))
            assert abs(gap) < ROUNDING * max(1.0, float(side.abs().max()))


def test_a_closed_form(small, prompt):
    """The token's part of a score of the first layer, from weights alone."""
    found = explain_attention(small, prompt, {}, 0, 1, 6, 3)
    attention, block = small.original_model.layers[0].attn, small.blocks[0]
    with torch.no_grad(), local_model(small, prompt, {}) as local:
        scale = local.run.held["blocks.0.ln1.hook_scale"][0]
        embedded = local.run.leaves["hook_embed"].detach()
        x = (embedded - embedded.mean(dim=1, keepdim=True)) / scale * block.ln1.weight
        rows = slice(8, 16)
        q, k = x[6] @ attention.q.weight[rows].T, x[3] @ attention.k.weight[rows].T
    kinds, at = found.nodes.kinds, found.nodes.positions
    a, b = (int(((kinds == NodeKind.TOKEN) & (at == p)).nonzero()) for p in (6, 3))
    assert float(found.matrix()[a, b]) == pytest.approx(float(q @ k) / math.sqrt(8), rel=1e-9)


def test_a_text_of_the_builtin_model_and_tables():
    model = load_model("builtin:stories").double()
    made = {f"mlp{layer}": TopKTranscoderConfig(n_features=64, k=4).build(mlp_sites(model, layer))
            for layer in (0, 1)}  # fmt: skip
    text = "One day, Lily went"
    ids = torch.tensor([1, *model.tokenizer.encode(text, add_special_tokens=False)])
    own = {name: standardized(d, model, ids) for name, d in made.items()}
    found = explain_attention(model, text, own, 2, 0, -1, minus="mean", **OTHER)
    assert found.sum() == pytest.approx(found.value, rel=1e-9)
    table, matrix = found.to_pandas(n=5), found.matrix()
    assert float(table.contribution.abs()[0]) == float(matrix.abs().max())
    assert table.contribution.abs().is_monotonic_decreasing
    of_nodes = found.marginals_to_pandas()
    assert of_nodes.query_side.sum() == pytest.approx(found.value, rel=1e-9)
    place = of_nodes.index[of_nodes.name == table.query_node[0]][0]
    other = of_nodes.index[of_nodes.name == table.key_node[0]][0]
    assert float(matrix[place, other]) == table.contribution[0]


READERS, CONTRIBUTIONS = module._Row.readers, module.LocalModel.shares


def unscaled(self, total):
    return READERS(self, total) * self._q.shape[-1] ** 0.5


def unrotated(self, total):
    """The slopes of a score without rotation: the same for every position."""
    found = READERS(self, total)
    d, n, _ = found.shape
    width, head = self._k.shape[3], self._head * self._k.shape[2] // self._q.shape[2]
    plain = torch.zeros(d, n, self._k.shape[2], width, dtype=found.dtype)
    at = found.flatten(2).abs().sum(dim=(0, 2)).nonzero()[:, 0]
    plain[:, at, head] = torch.eye(d).to(found)[:, None] / d**0.5
    return plain.flatten(2)


def without_bias(self, gradients, constants):
    return CONTRIBUTIONS(self, gradients._replace(biases={}), constants)


def test_mistakes_are_found(model, prompt, monkeypatch):
    rotary = model_type(model) in ("gpt_neox", "llama", "gemma2")
    whole = explain_attention(model, prompt, {}, **AT, key=2)
    with monkeypatch.context() as patch:
        patch.setattr(module._Row, "readers", unscaled)
        with pytest.raises(InputError, match="bilinear form"):
            explain_attention(model, prompt, {}, **AT, key=2)
    if rotary:
        with monkeypatch.context() as patch:
            patch.setattr(module._Row, "readers", unrotated)
            with pytest.raises(InputError, match="bilinear form"):
                explain_attention(model, prompt, {}, **AT, key=2)
    bias = whole.nodes.of_kind(NodeKind.BIAS)
    if whole.query_side[:, bias].any():
        monkeypatch.setattr(module.LocalModel, "shares", without_bias)
        with pytest.raises(InputError, match="missing from the sum"):
            explain_attention(model, prompt, {}, **AT, key=2)


@pytest.mark.parametrize("kind", ["qwen3", "bloom"])
def test_norms_of_queries_are_held_and_alibi_is_refused(kind, prompt, tmp_path):
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(small_config(kind))
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3)
    made.save_pretrained(tmp_path)
    model = load_model(tmp_path, "cpu", torch.float64)
    if kind == "bloom":
        with pytest.raises(InputError, match="ALiBi"):
            explain_attention(model, prompt, {}, **AT, key=2)
    else:
        found = explain_attention(model, prompt, {}, **AT, key=2)
        assert float(found.matrix().sum()) == pytest.approx(found.value, rel=1e-9)


@pytest.mark.untyped
def test_what_does_not_fit_is_refused(small, prompt):
    for changes, told in (
        ({"head": 2}, "head from 0 to 1"), ({"layer": 7}, "got 7 of a model with 2 layers"),
        ({"query": 9}, "position from -9 to 8"), ({"key": 7}, "that token 6 sees"),
        ({"key": 2, "minus": 2}, "different keys"), ({"query": 0, "minus": "mean"}, "only itself"),
        ({"head": 0.5}, "head from 0 to 1"), ({"minus": "men"}, "'mean' or None, got 'men'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            explain_attention(small, prompt, {}, **(AT | changes))
