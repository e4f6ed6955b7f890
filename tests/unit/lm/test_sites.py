from dataclasses import replace

import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.core.tokens import Tokens
from dictlearn.lm.sites import hook_sites, require_readable, require_sites


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has", [{}, {"avx512_bf16": True, "avx512_fp16": False}])
def test_a_precision_that_the_cpu_lacks_is_said_to_be_slow(native, dtype, has, caplog, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    ids = torch.randint(40, (3, 12))
    require_readable(native().to(dtype), Tokens(ids, ids >= 0, source="", split="", hash=""))
    slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not has)
    assert len(caplog.records) == slow
    assert not slow or f"computes in {str(dtype)[6:]}, for which this CPU has no" in caplog.text


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


def test_names_of_one_hook_are_not_joined(native):
    """An alias gives the same activation once more."""
    model = native()
    names = ["blocks.0.mlp.hook_out", "blocks.0.hook_mlp_out"]
    with pytest.raises(InputError, match="names of one hook of this model"):
        hook_sites(model, names)
    site = Site(names, [16, 16])
    with pytest.raises(InputError, match="names of one hook of this model"):
        require_sites(model, {"it": Sites(site, site)})
    require_sites(model, {name: hook_sites(model, name) for name in names})


@pytest.mark.untyped
def test_arguments_of_another_type_are_named(native):
    model = native()
    for hook in (3, None, [], [3]):
        with pytest.raises(InputError, match="hook_sites needs the name of a hook"):
            hook_sites(model, hook)
    with pytest.raises(InputError, match="a model with TransformerLens hooks"):
        hook_sites("builtin:stories", "blocks.0.hook_mlp_out")
