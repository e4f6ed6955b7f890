"""Random models in float64, and dictionaries of every kind in them."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from dictlearn.circuits.local_model import local_model
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.cross_layer_transcoder import CrossLayerTranscoderConfig
from dictlearn.dictionaries.gated_sae import GatedSAEConfig
from dictlearn.dictionaries.jumprelu_sae import JumpReLUSAEConfig
from dictlearn.dictionaries.registry import KINDS
from dictlearn.dictionaries.sae import SAEConfig
from dictlearn.dictionaries.topk_transcoder import TopKTranscoderConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.harvesting import harvest
from dictlearn.lm.forward import activations_at, readers
from dictlearn.lm.hooks import hooked
from dictlearn.lm.loading import load_model
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites
from dictlearn.training.config import FitConfig
from dictlearn.training.fit import fit
from tests.unit.lm.architectures import small_config

HUGGING_FACE = ("gpt2", "gpt_neox", "llama", "gemma2")
"""Learned positions; parallel blocks; grouped queries; post-norms and soft caps."""


@pytest.fixture(scope="session")
def prompt() -> torch.Tensor:
    return torch.randint(3, 40, (9,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def small(native: Callable[..., Any]) -> Any:
    """A native model with GELU."""
    return native().double()


@pytest.fixture(scope="session", params=["native", "gated", "hooked", *HUGGING_FACE])
def model(
    request: pytest.FixtureRequest,
    native: Callable[..., Any],
    hooked_transformer: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Random models of several architectures."""
    if request.param == "native":
        return native().double()
    if request.param == "gated":
        return native(normalization_type="RMS", gated_mlp=True, act_fn="silu").double()
    if request.param == "hooked":
        with pytest.warns(Warning, match="HookedTransformer"):
            found = hooked_transformer(dtype=torch.float64)
        return found
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(small_config(request.param))
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3)
    made.save_pretrained(folder)
    return load_model(folder, "cpu", torch.float64)


def standardized(dictionary: FeatureDictionary, model: Any, ids: torch.Tensor) -> FeatureDictionary:
    """The dictionary in float64, with the units of a prompt."""
    sites = dictionary.sites
    at = activations_at(model, ids[None], list(dict.fromkeys(sites.hooks)))
    units = []
    for site in (sites.source, sites.target):
        x = torch.cat([at[hook][0] for hook in site.hooks], dim=1)
        units += [x.mean(dim=0), site.scale([part.std() for part in site.split(x)])]
    dictionary.double().standardize_(*units)
    return dictionary.requires_grad_(False)


def final_of(model, prompt, local, held, leaves):
    """The input of the unembedding with held values and constants written by hand."""
    patches = {hook: lambda y, positions, leaf=leaf: leaf[None] for hook, leaf in leaves.items()}
    holds = [(name, lambda a, hook, value=value: value) for name, value in held.items()]
    with warnings.catch_warnings(), torch.no_grad(), patched(model, patches), hooked(model, holds):
        warnings.simplefilter("ignore")
        return local.run.head.read(model, prompt[None])[0]


def measured(model, prompt, dictionaries):
    """Inverse scales of norms by layer and name, and patterns by layer, on the prompt."""
    names = ("ln1", "ln1_post", "ln2", "ln2_post")
    with local_model(model, prompt, dictionaries) as local:
        one = torch.ones(len(prompt), dtype=torch.float64)
        held = [
            {
                name: 1 / local.run.held.get(f"blocks.{layer}.{name}.hook_scale", one).flatten()
                for name in names
            }
            for layer in (0, 1)
        ]
    at = {}
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)]
    with hooked(model, readers(at, names, stop=False)), torch.no_grad():
        model(prompt[None])
    return held, [at[name][0] for name in names]


@pytest.fixture
def mixes(model: Any, prompt: torch.Tensor) -> dict[str, dict[str, FeatureDictionary]]:
    """Sets of untrained dictionaries at different places of a model of two layers."""
    mlps = [mlp_sites(model, layer) for layer in (0, 1)]
    heads = hook_sites(model, "blocks.0.attn.hook_z")
    attention = hook_sites(model, "blocks.1.hook_attn_out")
    stream = hook_sites(model, "blocks.0.hook_resid_post")
    groups = {"n_groups": 2 if heads.source.d % 2 == 0 else 1}
    skipping = TranscoderConfig(n_features=24, linear_skip=True).build(mlps[0], seed=1)
    torch.nn.init.normal_(skipping.W_skip, std=0.3, generator=torch.Generator().manual_seed(0))
    sets = {
        "nothing": {},
        "transcoders": {
            f"mlp{i}": TopKTranscoderConfig(n_features=32, k=6).build(mlps[i], seed=i)
            for i in (0, 1)
        },
        "a skip": {"skip": skipping},
        "a mixture": {
            "z": CodebookConfig(n_codes=12, k=2, **groups).build(heads),
            "stream": SAEConfig(n_features=32).build(stream),
            "attention": GatedSAEConfig(n_features=24).build(attention),
            "mlp": JumpReLUSAEConfig(n_features=24).build(
                hook_sites(model, mlps[1].target.hook), seed=2
            ),
        },
    }
    return {
        title: {name: standardized(d, model, prompt) for name, d in some.items()}
        for title, some in sets.items()
    }


@pytest.fixture(scope="session")
def trained(small: Any) -> dict[str, FeatureDictionary]:
    """One of every kind, trained a little at the first MLP; the cross-layer one at both."""
    ids = torch.randint(40, (64, 12), generator=torch.Generator().manual_seed(3))
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), "random", "train", "0")
    sites = [mlp_sites(small, layer) for layer in (0, 1)]
    configs = {kind.kind: kind.tiny() for kind in KINDS}
    at = {name: sites[0] for name in configs if name != CrossLayerTranscoderConfig.kind}
    run = FitConfig(steps=40, batch_size=128, standardize_rows=512, learning_rate=1e-2)
    found = fit(configs, harvest(small, tokens, sites), run, sites=at, progress=False)
    return {name: d.double().requires_grad_(False) for name, d in found.items()}
