"""Logit weights against the model itself, and which hooks are added to the residual stream."""

import re

import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import activations_at, logits_and_activations
from dictlearn.lm.loading import load_model
from dictlearn.lm.patching import patched, splice, spliced_logits
from dictlearn.lm.sites import hook_sites
from dictlearn.lm.unembedding import LogitMap, logit_map, why_not_in_stream
from tests.unit.lm.architectures import small_config

MODELS = ("LN", "RMS", None, "hooked_transformer", "hooked_without_norm", "builtin", "llama")
IN_STREAM = (
    "hook_embed", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post",
    "blocks.0.hook_attn_out", "blocks.1.hook_mlp_out",
)  # fmt: skip
OFF_STREAM = ("blocks.0.ln2.hook_normalized", "blocks.1.mlp.hook_in", "blocks.1.attn.hook_z")


@pytest.fixture(scope="module", params=MODELS)
def model(request, native, hooked_transformer, shared):
    if request.param == "builtin":
        return load_model("builtin:stories")
    if request.param == "llama":
        return load_model(shared("models/stories15M"))
    if request.param == "hooked_transformer":
        with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
            return hooked_transformer()
    if request.param == "hooked_without_norm":
        with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
            return hooked_transformer(normalization_type=None)
    return native(normalization_type=request.param)


def test_logit_weights_are_the_derivative_of_the_logits(model):
    """At the last layer nothing but the normalisation follows, whose scale is the only rest."""
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    ids = torch.arange(8).reshape(2, 4)
    y = activations_at(model, ids, [last])[last]
    direction = torch.randn(y.shape[-1], generator=torch.Generator().manual_seed(0))
    # No first-order change of the scale: as much of the stream taken off as its length grows.
    centred = y - y.mean(dim=-1, keepdim=True) if logit_map(model).centers else y
    v = direction - direction.mean() if logit_map(model).centers else direction
    along = (centred @ v).unsqueeze(-1) / centred.square().sum(dim=-1, keepdim=True)
    v = v - along * centred
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    step = 0.02 * y.norm() / v.norm()
    plus, minus = (spliced_logits(model, ids, last, y + s * step * v, everywhere) for s in (1, -1))
    change = ((plus - minus) / (2 * step)).flatten(0, 1)
    change = change - change.mean(dim=1, keepdim=True)
    weights = logit_map(model).weights(v.flatten(0, 1))
    cosines = torch.cosine_similarity(change, weights, dim=1)
    assert cosines.min() > 0.999
    scale = (weights * change).sum(1) / change.square().sum(1)
    if getattr(model, "ln_final", None) is None or model.cfg.normalization_type is None:
        expected = torch.ones_like(scale)
    else:
        expected = centred.flatten(0, 1).square().mean(dim=1).sqrt()
    assert torch.allclose(scale, expected, rtol=0.01)


def test_only_what_is_added_as_it_is_belongs_to_the_stream(model):
    names = set(model.hook_dict)
    for hook in IN_STREAM:
        d = hook_sites(model, hook).target.d
        assert why_not_in_stream(model, hook, d) == "", hook
    for hook in names.intersection(OFF_STREAM):
        reason = why_not_in_stream(model, hook, hook_sites(model, hook).target.d)
        assert "residual stream" in reason, hook
    assert "width" in why_not_in_stream(model, "blocks.1.mlp.hook_post", 7)


@pytest.mark.parametrize("name", ["native", "hooked", "gpt2", "gpt_neox", "llama", "gemma2"])
def test_a_hook_of_the_stream_is_one_that_the_stream_goes_on_from(
    name, native, hooked_transformer, tmp_path
):
    """In a copy whose layers write nothing, what is written to the stream is left at its end."""
    if name == "native":
        model = native()
    elif name == "hooked":
        with pytest.warns(DeprecationWarning, match="HookedTransformer is deprecated"):
            model = hooked_transformer()
    else:
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(small_config(name))
        for parameter in made.parameters():
            parameter.data.normal_(std=0.3)
        made.save_pretrained(tmp_path)
        model = load_model(tmp_path, "cpu")
    ids, end = torch.arange(6).reshape(2, 3), "blocks.1.hook_resid_post"
    parts = [f"blocks.{i}.hook_resid_{part}" for i in (0, 1) for part in ("pre", "mid", "post")]
    hooks = [hook for hook in parts if hook in model.hook_dict]
    found = [why_not_in_stream(model, hook, model.cfg.d_model) == "" for hook in hooks]
    for key, parameter in model.named_parameters():
        if parameter.ndim > 1 and re.search(r"\b(blocks|layers|h)\.\d", key):
            parameter.data.zero_()
    clean, going_on = activations_at(model, ids, hooks), []
    added = torch.randn(clean[end].shape, generator=torch.Generator().manual_seed(0))
    for hook in hooks:
        written = splice(clean[hook] + added, torch.ones_like(ids, dtype=torch.bool))
        with patched(model, {hook: written}):
            change = activations_at(model, ids, [end])[end] - clean[end]
        going_on.append(torch.allclose(change, added, atol=1e-4))
    assert found == going_on
    of_mid = {f for hook, f in zip(hooks, found, strict=True) if "mid" in hook}
    assert of_mid == {"hooked": {True}, "gpt_neox": set()}.get(name, {False})
    assert found.count(False) == (0 if name in ("hooked", "gpt_neox") else 2)


def test_looking_leaves_the_model_as_it_was(native):
    model = native()
    ids = torch.arange(8).reshape(2, 4)
    before, _ = logits_and_activations(model, ids, ["hook_embed"])
    logit_map(model)
    why_not_in_stream(model, "blocks.0.hook_mlp_out", 16)
    assert torch.equal(model(ids), before)


def test_a_stream_without_normalisation_has_no_gain():
    class Plain:
        unembed = torch.nn.Linear(2, 3)

    Plain.unembed.W_U = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
    found = logit_map(Plain())
    assert found.weights(torch.tensor([[1.0, 0.0]])).tolist() == [[1.0, 0.0, -1.0]]


def test_the_gain_of_an_odd_width_is_found(native):
    for kind, centers in (("LN", True), ("RMS", False)):
        model = native(d_model=15, n_heads=3, d_head=5, normalization_type=kind)
        found = logit_map(model)
        weight = dict(model.ln_final.named_parameters())
        weight = next(p for name, p in weight.items() if name.endswith(("w", "weight")))
        assert found.centers == centers
        assert torch.allclose(found.gain, weight, rtol=1e-3)


def test_what_has_no_linear_part_is_refused():
    class Odd:
        unembed = torch.nn.Linear(4, 3)
        ln_final = torch.nn.Tanh()

    with pytest.raises(InputError, match="unembedding"):
        logit_map(object())
    Odd.unembed.W_U = torch.randn(4, 3)
    with pytest.raises(InputError, match="neither LayerNorm"):
        logit_map(Odd())


def test_a_constant_direction_means_nothing_behind_a_layer_norm():
    found = LogitMap(torch.ones(4), True, torch.randn(4, 5)).weights(torch.ones(1, 4))
    assert torch.allclose(found, torch.zeros(1, 5), atol=1e-6)
