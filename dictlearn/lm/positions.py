"""Positions of tokens in their sequences, from the arguments of a forward pass."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import LanguageModel


def positions_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Int[Tensor, "b pos"]:
    """The position of every token of a pass of a Hugging Face model in its own sequence."""
    ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    assert isinstance(ids, Tensor)
    past = kwargs.get("past_key_values")
    seen = 0 if past is None else int(past.get_seq_length())
    return _counted(ids, seen, kwargs.get("attention_mask"), kwargs.get("position_ids"))


def positions_in_hooked(
    model: LanguageModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Int[Tensor, "b pos"]:
    """The same of a `HookedTransformer`, which has to be given ids and no text."""
    ids = args[0] if args else kwargs.get("input")
    if not isinstance(ids, Tensor):
        raise InputError(
            "required token ids of shape [b, pos] for a HookedTransformer with functions at its "
            f"hooks, got {type(ids).__name__}; model.to_tokens(text) makes them"
        )
    ids = ids if ids.ndim > 1 else ids.unsqueeze(0)
    past = kwargs.get("past_kv_cache")
    mask = kwargs.get("attention_mask")
    if mask is None and not ids.is_floating_point():
        mask = _padding(model, ids, kwargs)
    if past is None:
        return _counted(ids, 0, mask)
    seen, before = int(past[0].past_keys.shape[1]), past.previous_attention_mask
    if mask is not None and mask.shape[1] == ids.shape[1] and before.shape[1] == seen:
        mask = torch.cat([before.to(mask), mask], dim=1)
    return _counted(ids, seen, mask)


def _padding(model: LanguageModel, ids: Tensor, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The mask that a `HookedTransformer` makes itself, where it pads on the left."""
    side, bos, tokenizer = kwargs.get("padding_side"), kwargs.get("prepend_bos"), model.tokenizer
    if tokenizer is None:
        return None
    if (side if side in ("left", "right") else tokenizer.padding_side) != "left":
        return None
    from transformer_lens.utilities.tokenize_utils import get_attention_mask

    default = model.cfg.default_prepend_bos
    return get_attention_mask(tokenizer, ids, bos if isinstance(bos, bool) else default, "left")


def _counted(ids: Tensor, seen: int, mask: object, given: object = None) -> Int[Tensor, "b pos"]:
    """Positions that continue after `seen` tokens, and start at -n with n tokens of padding."""
    b, pos = ids.shape[:2]
    positions = torch.arange(seen, seen + pos, device=ids.device).expand(b, pos)
    if isinstance(mask, Tensor) and mask.shape == (b, seen + pos):
        return positions - mask.to(ids.device).long().argmax(dim=1, keepdim=True)
    return given.expand(b, pos) if isinstance(given, Tensor) else positions
