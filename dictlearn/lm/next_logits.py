"""The logits of the next token, by recomputing everything or with a key-value cache."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import LanguageModel, is_native, wrapped
from dictlearn.lm.shadows import shadowed

NextLogits: TypeAlias = Callable[[Int[Tensor, "b pos"]], Float[Tensor, "b vocabulary"]]
"""The logits of the token after each of some sequences, which end together."""

_Run: TypeAlias = Callable[
    [Int[Tensor, "b new"], int, Bool[Tensor, "b pos"] | None],
    Float[Tensor, "b new vocabulary"],
]
"""A pass over the tokens after those already seen, given their number, and a mask over all
tokens that is False on padding, or None if there is no padding."""


def recomputed(model: LanguageModel, padding: Int[Tensor, " b"]) -> NextLogits:
    """Passes over all tokens, for sequences with so many tokens of padding on the left.

    Each sequence is moved to the beginning of its row, so that neither a mask nor positions have
    to be given to the model: in a causal model, what follows a token does not change its logits.
    """

    def next_logits(ids: Tensor) -> Tensor:
        b, width = ids.shape
        columns = torch.arange(width, device=ids.device) + padding[:, None]
        moved = ids.gather(1, columns % width)
        # A HookedTransformer would else take some of the tokens for padding.
        mask = {} if wrapped(model) is not None else {"attention_mask": torch.ones_like(ids)}
        logits = model(moved, **mask)
        return logits[
            torch.arange(b, device=logits.device), (width - 1 - padding).to(logits.device)
        ]

    return next_logits


def with_cache(model: LanguageModel, padding: Int[Tensor, " b"], length: int) -> NextLogits:
    """Passes over new tokens only, for such sequences, which grow to at most `length` tokens.

    Tokens given in an earlier call have to be the same in all later ones.
    """
    run = _run_with_cache(model, padding, length)
    padded = bool(padding.any())
    seen = 0

    def next_logits(ids: Tensor) -> Tensor:
        nonlocal seen
        width = ids.shape[1]
        mask = torch.arange(width, device=ids.device) >= padding[:, None] if padded else None
        logits = run(ids[:, seen:], seen, mask)[:, -1]
        seen = width
        return logits

    return next_logits


def _run_with_cache(model: LanguageModel, padding: Tensor, length: int) -> _Run:
    """The passes with a cache that suit the class of `model`."""
    if wrapped(model) is None:
        return _hooked_transformer(model, len(padding))
    if is_native(model):
        return _NativePast(model, padding, length).run
    return _hugging_face(model)


def _hugging_face(model: LanguageModel) -> _Run:
    """Passes with the cache that a model of transformers makes itself."""
    past: Any = None

    def run(new: Tensor, seen: int, mask: Tensor | None) -> Tensor:
        nonlocal past
        logits, past = model(
            new, attention_mask=mask if mask is None else mask.long(), past_key_values=past,
            use_cache=True, return_type="logits_and_cache",
        )  # fmt: skip
        if past is None:
            raise InputError("the model returns no keys and values")
        return logits

    return run


def _hooked_transformer(model: LanguageModel, b: int) -> _Run:
    """Passes with the cache of TransformerLens for its own class of models."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    device = next(iter(model.parameters())).device
    past = TransformerLensKeyValueCache.init_cache(model.cfg, device, b)

    def run(new: Tensor, seen: int, mask: Tensor | None) -> Tensor:
        own = torch.ones_like(new) if mask is None else mask[:, seen:].long()
        return model(new, attention_mask=own, past_kv_cache=past)

    return run


class _NativePast:
    """Keys and values of a native model of TransformerLens, which has no cache of its own."""

    def __init__(self, model: LanguageModel, padding: Int[Tensor, " b"], length: int) -> None:
        self._model, self._padding, self._length = model, padding, length
        self._seen = 0
        self._blocked = torch.empty(0)
        self._past: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._forwards = self._all_forwards()

    def run(self, new: Tensor, seen: int, mask: Tensor | None) -> Tensor:
        """The logits of the new tokens."""
        self._seen = seen
        columns = torch.arange(seen + new.shape[1], device=new.device)
        self._blocked = columns > columns[seen:, None]
        if mask is not None:
            self._blocked = self._blocked | ~mask[:, None, None, :]
        positions = (columns[seen:] - self._padding[:, None]).clamp(min=0)
        with shadowed(self._forwards):
            return self._model(new, attention_mask=mask, position_ids=positions)

    def _all_forwards(self) -> dict[nn.Module, Callable[..., Any]]:
        """The `forward` of each attention module, with keys and values of earlier tokens."""
        from transformer_lens.model_bridge.sources.native import NativeAttention

        modules = [m for m in self._model.modules() if isinstance(m, NativeAttention)]
        return {module: self._forward(module) for module in modules}

    def _forward(self, module: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        @wraps(module.forward)
        def forward(
            hidden_states: Float[Tensor, "b new d"],
            position_ids: Int[Tensor, "b new"],
            pattern_fn: Callable[[Tensor], Tensor] | None = None,  # from TransformerLens 4 on
            **rest: Any,
        ) -> tuple[Tensor, Tensor]:
            maps = (module.q, module.k, module.v)
            split = (m(hidden_states).unflatten(-1, (-1, module.d_head)) for m in maps)
            q, k, v = (part.transpose(1, 2) for part in split)  # [b, head, new, d_head]
            if module.rotary is not None:
                q, k = module.rotary.apply_rope(q, k, position_ids=position_ids)
            keys, values = self._extended(module, k, v)
            q = q.unflatten(1, (module.n_kv_heads, -1))  # the heads that share keys
            scores = (q @ keys.mT.unsqueeze(2)).flatten(1, 2) / module.scale
            if (cap := module.attn_scores_soft_cap) > 0:
                scores = cap * (scores / cap).tanh()
            # Finite, since a token of padding has nothing to attend to.
            lowest = torch.finfo(scores.dtype).min
            pattern = scores.masked_fill(self._blocked, lowest).softmax(dim=-1)
            if pattern_fn is not None:
                pattern = pattern_fn(pattern)
            z = pattern.unflatten(1, (module.n_kv_heads, -1)) @ values.unsqueeze(2)
            return module.o(z.flatten(1, 2).transpose(1, 2).flatten(2)), pattern

        return forward

    def _extended(self, module: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens, [b, head, pos, d_head], once the new are added."""
        b, heads, new, d = k.shape
        if module not in self._past:
            shape = (b, heads, self._length, d)
            self._past[module] = (k.new_empty(shape), v.new_empty(shape))
        end = self._seen + new
        keys, values = (whole[:, :, :end] for whole in self._past[module])
        keys[:, :, self._seen :], values[:, :, self._seen :] = k, v
        return keys, values
