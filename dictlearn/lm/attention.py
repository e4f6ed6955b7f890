"""Fused attention, without a matrix of scores, in modules where no hook reads them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, NamedTuple, TypeAlias, TypeGuard
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.shadows import nearly_equal, shadowed, silenced

_FIRED = ("hook_in", "hook_out")
"""The hooks of the module itself that still fire, as do those of its linear maps."""
_PAST = ("past_key_values", "layer_past")
"""The names by which a module is given keys and values of earlier tokens."""
_N_ROWS = 16
"""Queries in each of the three pieces of a sequence at which a module is tried."""

_Forward: TypeAlias = Callable[..., Any]
_AGREES: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()
"""Results of trials of attention modules, by length of the sequences, dtype and device."""


class FusedAttention:
    """A choice of attention modules that run by `scaled_dot_product_attention` where they may: up
    to rounding the same, in a third of the time on the CPU, and without a [pos, pos] matrix per
    head.

    Scaling, rotation, masks and windows come in more variants than can be listed. A module is
    therefore tried when it first meets sequences of some length, on an input like the first of
    them, and runs fused if both ways gave the same up to rounding; this is remembered for as long
    as the module exists. It also runs unfused while a hook reads its scores, patterns, or rotated
    queries.
    """

    def __init__(self, modules: Iterable[nn.Module] = (), n_heads: int = 0) -> None:
        self._modules, self._n_heads = tuple(modules), n_heads
        self.used: set[nn.Module] = set()
        """The modules that have run fused."""

    def __len__(self) -> int:
        """The number of modules chosen."""
        return len(self._modules)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context in which these modules run fused where they may."""
        with shadowed({module: self._forward(module) for module in self._modules}):
            yield

    def _forward(self, module: nn.Module) -> _Forward:
        run, fused = module.forward, _Fused(module, self._n_heads)

        @wraps(run)  # a block of a bridge reads the signature of what it wraps
        def forward(*args: Any, **kwargs: Any) -> Any:
            if (x := _input(args, kwargs)) is None or _looked_into(module):
                return run(*args, **kwargs)
            known = _AGREES.setdefault(module, {})
            case = (x.shape[1], x.dtype, x.device.type, module.training)
            if case not in known:
                known[case] = _agrees(fused, run, args[1:], kwargs, x)
            if not known[case]:
                return run(*args, **kwargs)
            self.used.add(module)
            return fused(x, kwargs.get("position_embeddings"))

        return forward


def fusable_attention(model: LanguageModel) -> FusedAttention:
    """The attention modules of `model` that may turn out to be causal softmax attention.

    None where shortcuts are switched off, or where the config names a cap of scores: on the scores
    of a small model it may hardly show.
    """
    if not shortcuts_allowed() or score_cap(model):
        return FusedAttention()
    attention = (getattr(block, "attn", None) for block in getattr(model, "blocks", ()))
    return FusedAttention(filter(_has_maps, attention), model.cfg.n_heads)


def score_cap(model: LanguageModel) -> float:
    """The cap of attention scores that the config names, 0 without one."""
    configs = (model.cfg, getattr(getattr(model, "original_model", None), "config", None))
    names = ("attn_scores_soft_cap", "attn_logit_softcapping")
    caps = (getattr(config, name, None) for config in configs for name in names)
    return next((float(cap) for cap in caps if isinstance(cap, int | float) and cap > 0), 0.0)


class _Fused:
    """The `forward` of an attention module, without its pattern."""

    def __init__(self, module: nn.Module, n_heads: int) -> None:
        self.module, self._n_heads = module, n_heads
        self._maps: Any = module

    def __call__(self, x: Float[Tensor, "b pos d"], rotation: Any) -> tuple[Tensor, None]:
        return self.output(*self.heads(self._maps.hook_in(x), rotation)), None

    def heads(self, x: Float[Tensor, "b pos d"], rotation: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [b, head, pos, d_head], the first two rotated."""
        q, k, v = self._maps.q(x), self._maps.k(x), self._maps.v(x)
        d_head = q.shape[-1] // self._n_heads
        q, k, v = (rearrange(p, "b pos (head d) -> b head pos d", d=d_head) for p in (q, k, v))
        if rotation is not None:
            q, k = (_rotated(part, *rotation) for part in (q, k))
        return q, k, v

    def output(
        self,
        q: Float[Tensor, "b head pos d_head"],
        k: Float[Tensor, "b group pos d_head"],
        v: Float[Tensor, "b group pos d_head"],
    ) -> Float[Tensor, "b pos d"]:
        """The output of the module."""
        z = scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
        return self._maps.hook_out(self._maps.o(rearrange(z, "b head pos d -> b pos (head d)")))


class _Past(NamedTuple):
    """The keys and values of earlier tokens, in the place of a cache."""

    k: Float[Tensor, "b group pos d_head"]
    v: Float[Tensor, "b group pos d_head"]

    def update(self, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Those of all tokens, given those of the present ones."""
        return torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)


@torch.no_grad()
def _agrees(
    fused: _Fused, run: _Forward, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor
) -> bool:
    """Whether both ways give the same on one sequence.

    Its rows are the first sequence's with random ones of the same size added: what distinguishes
    kinds of attention does not show where all rows are alike. No function at a hook is called.

    Only the output at some queries is computed both ways, from all keys and values before them: a
    fraction of a pass, and no [pos, pos] matrix. Modules that take no keys and values from
    elsewhere, and those that differ, are run on the whole sequence.
    """
    others = {k: _first(value, len(x)) for k, value in kwargs.items()}
    rest = tuple(_first(value, len(x)) for value in args)
    x, n = _varied(x[:1]), x.shape[1]

    def plain(begin: int, end: int, past: _Past | None) -> Tensor:
        given = {key: _piece(value, begin, end, n) for key, value in others.items()}
        given |= dict.fromkeys([key for key in _PAST if key in given] or _PAST[:1], past)
        given.pop("hidden_states", None)
        some = tuple(_piece(value, begin, end, n) for value in rest)
        return run(x[:, begin:end], *some, **given)[0]

    with silenced(fused.module), suppress(Exception):  # what is no such attention fails in any way
        q, k, v = fused.heads(x, others.get("position_embeddings"))
        found = fused.output(q, k, v)
        with suppress(Exception):
            pieces = [(i, i + _N_ROWS) for i in (0, (n - _N_ROWS) // 2, n - _N_ROWS) if i >= 0]
            expected = [plain(i, j, _Past(k[:, :, :i], v[:, :, :i])) for i, j in pieces]
            seen = torch.cat([found[:, i:j] for i, j in pieces], dim=1)
            if nearly_equal(seen, torch.cat(expected, dim=1)):
                return True
        return nearly_equal(found, plain(0, n, None))
    return False


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The input of an attention module that is called like this; None if that cannot be seen."""
    found = kwargs.get("hidden_states", args[0] if args else None)
    return found if isinstance(found, Tensor) and found.ndim == 3 else None


def _first(value: Any, b: int) -> Any:
    """The part of an argument of a module that belongs to the first of `b` sequences."""
    if isinstance(value, tuple):
        return tuple(_first(part, b) for part in value)
    batched = isinstance(value, Tensor) and value.ndim > 1 and len(value) == b
    return value[:1] if batched else value


def _piece(value: Any, begin: int, end: int, n: int) -> Any:
    """The part of an argument that belongs to some of `n` positions: of a mask, a row for each."""
    if isinstance(value, tuple):
        return tuple(_piece(part, begin, end, n) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[2:] == (n, n):
        return value[:, :, begin:end, :end]
    return value[:, begin:end] if value.ndim > 1 and value.shape[1] == n else value


def _varied(x: Float[Tensor, "1 pos d"]) -> Float[Tensor, "1 pos d"]:
    """`x` with random rows of the same norms added."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return x + noise * x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


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
