"""Functions at hooks of a running model that read or replace activations, with gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import require_fired, require_rows
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked, placed

Patch: TypeAlias = Callable[
    [Float[Tensor, "b pos d"], Int[Tensor, "b pos"]], Float[Tensor, "b pos d"] | None
]
"""A function of an activation and the positions of its tokens; its result, unless it is None,
replaces the activation. It must not modify its arguments in place."""


@contextmanager
def patched(
    model: LanguageModel, patches: Mapping[str, Patch | Sequence[Patch]]
) -> Iterator[LanguageModel]:
    """`model` with these functions at its hooks, which are removed at the end, also after errors.

    A function gets the activation as [b, pos, d], head axes flattened; its result is
    converted back to the original shape and dtype. Several functions at one hook run in order,
    each on the result of the one before. With gradients enabled, these flow through results and
    into activations that are only read. Positions count from the first token of each sequence,
    continue through a key-value cache, and start at -n with n tokens of left padding.

    Raises:
        InputError: a hook does not exist or, in a pass, never fires, has no vector for every
            token, or a function returns another shape.
    """
    listed = {
        name: tuple(given) if isinstance(given, Sequence) else (given,)
        for name, given in patches.items()
    }
    now = _Pass()
    functions = [(name, as_hook(name, some, now.at)) for name, some in listed.items()]
    inner = _wrapped(model)
    before = inner.register_forward_pre_hook(now.begin, with_kwargs=True)
    after = inner.register_forward_hook(lambda *_: require_fired(listed, now.fired))
    try:
        with hooked(model, functions):
            yield model
    finally:
        before.remove()
        after.remove()


def as_hook(
    name: str, patches: Sequence[Patch], positions_at: Callable[[str], Int[Tensor, "b pos"]]
) -> HookFunction:
    """These functions, in order, as one function for hook `name`."""

    def run(activation: Tensor, hook: object) -> Tensor | None:
        positions = positions_at(name)
        require_rows(activation, positions.shape, name)
        y = given = activation.flatten(2)
        for patch in patches:
            changed = patch(y, positions)
            if changed is None:
                continue
            if changed.shape != given.shape:
                raise InputError(
                    f"at {name!r}: required an activation of shape {list(given.shape)} from the "
                    f"function there, got {list(changed.shape)}"
                )
            y = changed
        if y is given and not torch.is_grad_enabled():
            return None
        # Returning the view makes it part of the graph, also if it was only read.
        return y.to(activation.dtype).reshape(activation.shape)

    return run


def splice(replacement: Float[Tensor, "b pos d"], where: Bool[Tensor, "b pos"]) -> Patch:
    """A function that replaces the activation by `replacement` where `where` holds.

    Raises:
        InputError: (when it runs) a shape does not match.
    """

    def put(y: Float[Tensor, "b pos d"], positions: Int[Tensor, "b pos"]) -> Tensor:
        if replacement.shape != y.shape or where.shape != y.shape[:2]:
            raise InputError(
                f"required a replacement of shape {tuple(y.shape)} and a mask of "
                f"{tuple(y.shape[:2])}, got {tuple(replacement.shape)} and {tuple(where.shape)}"
            )
        return torch.where(where.to(y.device).unsqueeze(2), replacement.to(y), y)

    return put


@torch.no_grad()
def spliced_logits(
    model: LanguageModel,
    ids: Int[Tensor, "b pos"],
    hook: str,
    replacement: Float[Tensor, "b pos d"],
    where: Bool[Tensor, "b pos"],
) -> Float[Tensor, "b pos vocabulary"]:
    """The logits with `replacement` in place of the activation at `hook`.

    Only positions where `where` holds are replaced; elsewhere the activation passes through.
    The replacement is cast to the dtype of the activation, and reshaped to its head axes.

    Raises:
        InputError: the hook does not exist or never fires, or a shape does not match.
    """
    with patched(model, {hook: splice(replacement, where)}):
        return model(placed(ids, model))


class _Pass:
    """State of the current pass: the positions of its tokens, and the hooks that have fired."""

    def __init__(self) -> None:
        self.positions = torch.empty(0, 0, dtype=torch.long)
        self.fired = set[str]()

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the arguments at the start of a pass."""
        self.fired.clear()
        self.positions = _positions(args, kwargs)

    def at(self, name: str) -> Int[Tensor, "b pos"]:
        """The positions of the current tokens; marks the hook as fired."""
        self.fired.add(name)
        return self.positions


def _wrapped(model: LanguageModel) -> nn.Module:
    """The module that a pass calls once with ids, cache and mask: a bridge wraps another one."""
    inner = getattr(model, "original_model", model)
    assert isinstance(inner, nn.Module)
    return inner


def _positions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Int[Tensor, "b pos"]:
    """The position of every token of a pass in its own sequence."""
    ids = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
    assert isinstance(ids, Tensor)
    b, pos = ids.shape[:2]
    past = kwargs.get("past_key_values", kwargs.get("past_kv_cache"))
    if past is None:
        seen = 0
    elif hasattr(past, "get_seq_length"):
        seen = int(past.get_seq_length())
    else:  # the cache of a HookedTransformer
        seen = int(past[0].past_keys.shape[1])
    positions = torch.arange(seen, seen + pos, device=ids.device).expand(b, pos)
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == (b, seen + pos):
        return positions - mask.long().argmax(dim=1, keepdim=True)
    given = kwargs.get("position_ids")
    return given.expand(b, pos) if isinstance(given, Tensor) else positions
