"""Functions at hooks of a running model that read or replace activations, with gradients."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.forward import require_fired, require_rows
from dictlearn.lm.hooks import (
    HookFunction,
    LanguageModel,
    hooked,
    placed,
    require_hooks,
    wrapped,
)
from dictlearn.lm.positions import positions_in, positions_in_hooked
from dictlearn.lm.shadows import shadowed

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
        InputError: a hook does not exist or has something else than functions; or, in a pass, it
            never fires or has no vector for every token, a function returns something else than
            an activation of this shape, or a `HookedTransformer` is given text instead of ids.
    """
    require_hooks(model)
    listed = _functions(patches)
    now = _Pass()
    functions = [(name, as_hook(name, some, now.at)) for name, some in listed.items()]
    told = _told(model, now.begin, lambda: require_fired(listed, now.fired))
    with told, hooked(model, functions):
        yield model


def _functions(patches: Mapping[str, Patch | Sequence[Patch]]) -> dict[str, tuple[Patch, ...]]:
    """The functions at each hook, checked to be functions."""
    if not isinstance(patches, Mapping):
        raise InputError(
            "patched needs a dict of functions by hook, such as {'blocks.0.hook_mlp_out': function}"
            f", got {type(patches).__name__}"
        )
    listed = {
        name: tuple(given) if isinstance(given, list | tuple) else (given,)
        for name, given in patches.items()
    }
    for name, functions in listed.items():
        for function in functions:
            if not callable(function):
                raise InputError(
                    f"at {name!r}: required a function of an activation and its positions, or a "
                    f"list of functions, got {function!r:.80}"
                )
    return listed


def as_hook(
    name: str, patches: Sequence[Patch], positions_at: Callable[[str], Int[Tensor, "b pos"]]
) -> HookFunction:
    """These functions, in order, as one function for hook `name`."""

    def run(activation: Tensor, hook: object) -> Tensor | None:
        """The activation after all patches; None if it was only read, without gradients."""
        positions = positions_at(name)
        require_rows(activation, positions.shape, name)
        y = given = activation.flatten(2)
        for patch in patches:
            changed = patch(y, positions)
            if changed is None:
                continue
            if not isinstance(changed, Tensor):
                raise InputError(
                    f"at {name!r}: required a tensor or None from the function there, got "
                    f"{type(changed).__name__}"
                )
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
    """A function that replaces the activation by `replacement` where `where` holds."""

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

    def begin(self, positions: Int[Tensor, "b pos"]) -> None:
        """Record the positions at the start of a pass."""
        self.fired.clear()
        self.positions = positions

    def at(self, name: str) -> Int[Tensor, "b pos"]:
        """The positions of the current tokens; marks the hook as fired."""
        self.fired.add(name)
        return self.positions


@contextmanager
def _told(
    model: LanguageModel, begin: Callable[[Tensor], None], end: Callable[[], None]
) -> Iterator[None]:
    """A context in which `begin` is called with the positions of every pass, and `end` after it.

    A bridge wraps a module, which a pass calls once, with ids, cache and mask. A
    `HookedTransformer` is such a module itself, but its `generate` calls `forward` past the hooks
    of a module, so there `forward` takes note.
    """
    if (inner := wrapped(model)) is not None:
        handles = (
            inner.register_forward_pre_hook(
                lambda _, args, kwargs: begin(positions_in(args, kwargs)), with_kwargs=True
            ),
            inner.register_forward_hook(lambda *_: end()),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        return
    forward = model.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        begin(positions_in_hooked(model, args, kwargs))
        result = forward(*args, **kwargs)
        end()
        return result

    with shadowed({model: noted}):
        yield
