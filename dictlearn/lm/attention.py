"""Fused attention, without a matrix of scores, in modules where no hook reads them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias, TypeGuard

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.shadows import nearly_equal, shadowed

_FIRED = ("hook_in", "hook_out")
"""The hooks of the module itself that still fire, as do those of its linear maps."""


FusedAttention: TypeAlias = dict[nn.Module, Callable[..., Any]]
"""Attention modules, each with an equivalent fused `forward`."""


@contextmanager
def trying_fused_attention(model: LanguageModel) -> Iterator[FusedAttention]:
    """A context in which every attention module of `model` also runs fused on its input; at the end
    the mapping holds those that are causal softmax attention.

    Scaling, rotation, masks and windows come in more variants than can be listed: a module counts
    if both ways gave the same up to rounding in every pass that was made, and if no function waits
    at a hook inside it that would not fire.
    """
    found: FusedAttention = {}
    equal: dict[nn.Module, bool] = {}
    blocks = () if score_cap(model) else getattr(model, "blocks", ())
    attention = (getattr(block, "attn", None) for block in blocks)
    fused = {module: _fused(module, model.cfg.n_heads) for module in attention if _has_maps(module)}

    def compare(module: nn.Module) -> Callable[..., Any]:
        """The module's `forward`, which also runs fused and notes whether both gave the same."""
        run = module.forward

        @wraps(run)
        def forward(*args: Any, **kwargs: Any) -> Any:
            expected = run(*args, **kwargs)
            if equal.get(module, True) and not _looked_into(module):
                equal[module] = _gives_the_same(fused[module], expected, args, kwargs)
            return expected

        return forward

    with shadowed({module: compare(module) for module in fused}):
        yield found
    found |= {module: forward for module, forward in fused.items() if equal.get(module)}


def _gives_the_same(
    forward: Callable[..., Any], expected: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    try:
        found = forward(*args, **kwargs)
        return isinstance(expected, tuple) and nearly_equal(found[0], expected[0])
    except Exception:  # what is not such attention may fail in any way
        return False


def score_cap(model: LanguageModel) -> float:
    """The cap of attention scores that the config names, 0 without one."""
    configs = (model.cfg, getattr(getattr(model, "original_model", None), "config", None))
    names = ("attn_scores_soft_cap", "attn_logit_softcapping")
    caps = (getattr(config, name, None) for config in configs for name in names)
    return next((float(cap) for cap in caps if isinstance(cap, int | float) and cap > 0), 0.0)


@contextmanager
def fused_attention(attention: FusedAttention) -> Iterator[None]:
    """A context in which these modules run by `scaled_dot_product_attention`: up to rounding the
    same, in a third of the time on the CPU, and without a [pos, pos] matrix per head.

    A module runs unfused if a hook reads its scores, patterns, or rotated queries.
    """
    with shadowed({m: forward for m, forward in attention.items() if not _looked_into(m)}):
        yield


def _fused(module: nn.Module, n_heads: int) -> Callable[..., tuple[Tensor, None]]:
    """The module's `forward`, without its pattern."""
    maps: Any = module

    @wraps(module.forward)  # a block of a bridge reads the signature of what it wraps
    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        x = maps.hook_in(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        q, k, v = maps.q(x), maps.k(x), maps.v(x)
        d_head = q.shape[-1] // n_heads
        q, k, v = (rearrange(p, "b pos (head d) -> b head pos d", d=d_head) for p in (q, k, v))
        if kwargs.get("position_embeddings") is not None:
            q, k = (_rotated(part, *kwargs["position_embeddings"]) for part in (q, k))
        z = scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
        return maps.hook_out(maps.o(rearrange(z, "b head pos d -> b pos (head d)"))), None

    return forward


def _rotated(
    x: Float[Tensor, "b head pos d"], cos: Float[Tensor, "_ pos r"], sin: Float[Tensor, "_ pos r"]
) -> Float[Tensor, "b head pos d"]:
    """`x` with its first r dimensions rotated, the first half of them against the second.

    The rotary embedding of RoFormer (Su et al. 2021) in the order of GPT-NeoX and Llama.
    """
    r = cos.shape[-1]
    turned, rest = x[..., :r], x[..., r:]
    first, second = turned.chunk(2, dim=-1)
    across = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos.unsqueeze(1) + across * sin.unsqueeze(1), rest], dim=-1)


def _has_maps(module: object) -> TypeGuard[nn.Module]:
    names = ("hook_in", "hook_out", "q", "k", "v", "o")
    return isinstance(module, nn.Module) and all(hasattr(module, name) for name in names)


def _looked_into(module: nn.Module) -> bool:
    """Whether a function is attached to a hook that would not fire."""
    return any(
        getattr(point, "fwd_hooks", None) or getattr(point, "bwd_hooks", None)
        for name, point in module.named_children()
        if name not in _FIRED
    )
