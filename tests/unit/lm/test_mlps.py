"""MLPs of a language model, recomputed from their weights."""

import pytest
import torch
import transformers

from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.sites import Sites
from dictlearn.lm.forward import activations_at
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites, mlp_weights
from dictlearn.lm.sites import hook_sites

DEPRECATED = "ignore:HookedTransformer is deprecated:DeprecationWarning"


def assert_mlp_recomputed(
    model, ids: torch.Tensor, layer: int, atol: float = 1e-5
) -> tuple[Sites, MLPWeights]:
    sites = mlp_sites(model, layer)
    at = activations_at(model, ids, sites.hooks)
    x, y = (at[hook].flatten(0, 1) for hook in sites.hooks)
    assert (sites.source.d, sites.target.d) == (x.shape[1], y.shape[1])
    mlp = mlp_weights(model, sites)
    assert mlp is not None
    y_hat = mlp.hidden(x) @ mlp.W_out + mlp.b_out
    torch.testing.assert_close(y_hat, y, atol=atol, rtol=1e-5)
    return sites, mlp


@pytest.mark.parametrize("act_fn", ["gelu", "gelu_new", "relu", "silu"])
@pytest.mark.parametrize("gated", [False, True])
def test_native_mlp_is_recomputed(native, ids, act_fn: str, gated: bool) -> None:
    model = native(act_fn=act_fn, gated_mlp=gated)
    for layer in (0, 1):
        sites, mlp = assert_mlp_recomputed(model, ids, layer)
        assert sites.hooks == (f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.mlp.hook_out")
        assert mlp.act_name == act_fn
        assert (mlp.W_gate is not None) == gated


@pytest.mark.parametrize(
    "config",
    [
        {"normalization_type": "LNPre"},
        {"normalization_type": None, "act_fn": "relu"},
        {"normalization_type": "RMS", "parallel_attn_mlp": True},
    ],
)
def test_other_native_mlps_are_recomputed(native, ids, config) -> None:
    sites, _ = assert_mlp_recomputed(native(**config), ids, 1)
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
    sites, _ = assert_mlp_recomputed(hooked_transformer(**config), ids, 1)
    assert sites.hooks == (f"blocks.1.{source}", "blocks.1.hook_mlp_out")


@pytest.mark.filterwarnings(DEPRECATED)
def test_weights_that_do_not_explain_the_mlp_are_left_out(hooked_transformer) -> None:
    for config in (
        {},  # the scale of ln2 comes in between
        {"normalization_type": "LNPre", "act_fn": "solu_ln"},
        # A gated HookedTransformer adds b_in after the product, which MLPWeights cannot say.
        {"normalization_type": "RMSPre", "act_fn": "silu", "gated_mlp": True},
    ):
        model = hooked_transformer(**config)
        assert mlp_weights(model, mlp_sites(model, 0)) is None


def test_no_weights_between_other_sites(native) -> None:
    model = native()
    assert mlp_weights(model, hook_sites(model, "blocks.0.mlp.hook_out")) is None
    across = Sites(mlp_sites(model, 0).source, mlp_sites(model, 1).target)
    assert mlp_weights(model, across) is None
    joined = hook_sites(model, ["blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"])
    assert mlp_weights(model, joined) is None


def test_weights_do_not_explain_a_mixture_of_experts(saved) -> None:
    small = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = transformers.MixtralConfig(**small, **heads, num_local_experts=2)
    model = load_model(saved(config), "cpu")
    sites = mlp_sites(model, 0)
    assert (sites.source.d, sites.target.d) == (32, 32)
    assert mlp_weights(model, sites) is None


def test_processed_bridge_is_recomputed(native, ids) -> None:
    model = native()
    model.enable_compatibility_mode(disable_warnings=True)
    assert_mlp_recomputed(model, ids, 1)


@pytest.mark.parametrize("name", ["stories15M", "stories260K"])
def test_real_mlp_is_recomputed(shared, name: str) -> None:
    model = load_model(shared(f"models/{name}"), "cpu")
    tokens = torch.randint(512, (2, 32), generator=torch.Generator().manual_seed(0))
    for layer in (0, model.cfg.n_layers - 1):
        _, mlp = assert_mlp_recomputed(model, tokens, layer)
        assert mlp.act_name == "silu"
        assert mlp.W_gate is not None


@pytest.mark.parametrize("layer", [-1, 2])
def test_bad_layer(native, layer: int) -> None:
    with pytest.raises(InputError, match=f"layer from 0 to 1, got {layer}"):
        mlp_sites(native(), layer)


def test_layer_without_mlp(native) -> None:
    with pytest.raises(InputError, match="no MLP"):
        mlp_sites(native(attn_only=True), 0)


@pytest.mark.untyped
def test_arguments_of_another_type_are_named(native):
    model = native()
    for layer in ([0, 1], "0", None, 0.0, True, 2):
        with pytest.raises(InputError, match="required a layer from 0 to 1, got"):
            mlp_sites(model, layer)
    sites = mlp_sites(model, 0)
    for wrong in (sites.source, "blocks.0", [sites]):
        with pytest.raises(InputError, match="mlp_weights needs Sites, as mlp_sites"):
            mlp_weights(model, wrong)
