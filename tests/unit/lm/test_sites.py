from dataclasses import replace

import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.lm.forward import activations_at
from dictlearn.lm.loading import load_model
from dictlearn.lm.sites import hook_sites, mlp_sites, require_readable

DEPRECATED = "ignore:HookedTransformer is deprecated:DeprecationWarning"


def assert_mlp_recomputed(model, ids: torch.Tensor, layer: int, atol: float = 1e-5) -> Sites:
    sites = mlp_sites(model, layer)
    at = activations_at(model, ids, sites.hooks)
    x, y = (at[hook].flatten(0, 1) for hook in sites.hooks)
    assert (sites.source.d, sites.target.d) == (x.shape[1], y.shape[1])
    assert sites.mlp is not None
    y_hat = sites.mlp.hidden(x) @ sites.mlp.W_out + sites.mlp.b_out
    torch.testing.assert_close(y_hat, y, atol=atol, rtol=1e-5)
    return sites


@pytest.mark.parametrize("act_fn", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("gated", [False, True])
def test_native_mlp_is_recomputed(native, ids, act_fn: str, gated: bool) -> None:
    model = native(act_fn=act_fn, gated_mlp=gated)
    for layer in (0, 1):
        sites = assert_mlp_recomputed(model, ids, layer)
        assert sites.hooks == (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.mlp.hook_out")
        assert sites.mlp is not None
        assert sites.mlp.act_name == act_fn
        assert (sites.mlp.W_gate is not None) == gated


@pytest.mark.parametrize(
    "config",
    [
        {"normalization_type": "LNPre"},
        {"normalization_type": None, "act_fn": "relu"},
        {"normalization_type": "RMS", "parallel_attn_mlp": True},
    ],
)
def test_other_native_mlps_are_recomputed(native, ids, config) -> None:
    sites = assert_mlp_recomputed(native(**config), ids, 1)
    assert sites.hooks == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize(
    ("config", "source"),
    [
        ({"normalization_type": "LNPre"}, "ln2.hook_normalized"),
        ({"normalization_type": None, "act_fn": "relu"}, "hook_resid_mid"),
        ({"normalization_type": "LNPre", "parallel_attn_mlp": True}, "ln2.hook_normalized"),
    ],
)
def test_hooked_transformer_mlp_is_recomputed(hooked_transformer, ids, config, source) -> None:
    sites = assert_mlp_recomputed(hooked_transformer(**config), ids, 1)
    assert sites.hooks == (f"blocks.1.{source}", "blocks.1.hook_mlp_out")


@pytest.mark.filterwarnings(DEPRECATED)
def test_weights_that_do_not_explain_the_mlp_are_left_out(hooked_transformer) -> None:
    assert mlp_sites(hooked_transformer(), 0).mlp is None  # the scale of ln2 comes in between
    unknown = {"normalization_type": "LNPre", "act_fn": "solu_ln"}
    assert mlp_sites(hooked_transformer(**unknown), 0).mlp is None
    # A gated HookedTransformer adds b_in after the product, which MLPWeights cannot say.
    gated = {"normalization_type": "RMSPre", "act_fn": "silu", "gated_mlp": True}
    assert mlp_sites(hooked_transformer(**gated), 0).mlp is None


def test_weights_do_not_explain_a_mixture_of_experts(saved) -> None:
    small = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = transformers.MixtralConfig(**small, **heads, num_local_experts=2)
    sites = mlp_sites(load_model(saved(config), "cpu"), 0)
    assert (sites.source.d, sites.target.d) == (32, 32)
    assert sites.mlp is None


def test_processed_bridge_is_recomputed(native, ids) -> None:
    model = native()
    model.enable_compatibility_mode(disable_warnings=True)
    assert_mlp_recomputed(model, ids, 1)


@pytest.mark.parametrize("name", ["stories15M", "stories260K"])
def test_real_mlp_is_recomputed(shared, name: str) -> None:
    model = load_model(shared(f"models/{name}"), "cpu")
    tokens = torch.randint(512, (2, 32), generator=torch.Generator().manual_seed(0))
    for layer in (0, model.cfg.n_layers - 1):
        sites = assert_mlp_recomputed(model, tokens, layer)
        assert sites.mlp is not None
        assert sites.mlp.act_name == "silu"
        assert sites.mlp.W_gate is not None


@pytest.mark.parametrize("layer", [-1, 2])
def test_bad_layer(native, layer: int) -> None:
    with pytest.raises(InputError, match=f"layer from 0 to 1, got {layer}"):
        mlp_sites(native(), layer)


def test_layer_without_mlp(native) -> None:
    with pytest.raises(InputError, match="no MLP"):
        mlp_sites(native(attn_only=True), 0)


@pytest.mark.parametrize(
    ("hook", "d"),
    [
        ("blocks.0.hook_resid_post", 16),
        ("blocks.1.mlp.hook_post", 32),
        ("blocks.0.attn.hook_z", 16),
    ],
)
def test_hook_sites(native, hook: str, d: int) -> None:
    sites = hook_sites(native(), hook)
    assert sites == Sites(Site(hook, d), Site(hook, d))
    assert sites.is_autoencoder


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_attention_patterns_are_not_sites(native, n_heads: int) -> None:
    model = native(n_heads=n_heads, d_head=16 // n_heads)
    for hook in ("blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"):
        with pytest.raises(InputError, match="one vector for every token"):
            hook_sites(model, hook)


def test_unknown_hook(native) -> None:
    with pytest.raises(InputError, match="did you mean"):
        hook_sites(native(), "blocks.0.hook_mlp_outt")


@pytest.mark.untyped
def test_tokens_that_a_model_cannot_read_are_refused(native):
    model = native()
    ids = torch.randint(40, (3, 12))
    tokens = Tokens(ids, ids != 0, source="", split="", hash="")
    require_readable(model, tokens)
    for wrong, words in (
        (replace(tokens, ids=ids + 30), "from 0 to 39, the vocabulary"),
        (
            replace(tokens, ids=ids.repeat(1, 2), ordinary=ids.repeat(1, 2) != 0),
            "at most 12 tokens",
        ),
        (replace(tokens, ids=ids[:0], ordinary=ids[:0] != 0), "at least 1 token"),
        (ids, "required Tokens, as load_tokens"),
    ):
        with pytest.raises(InputError, match=words):
            require_readable(model, wrong)
    with pytest.raises(InputError, match="required a model with TransformerLens hooks"):
        require_readable("builtin:stories", tokens)
    for shape in (ids[0], ids.float()):
        with pytest.raises(InputError, match="whole numbers"):
            Tokens(shape, shape != 0, source="", split="", hash="")
