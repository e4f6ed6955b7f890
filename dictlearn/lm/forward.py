"""Forward passes that read activations at hooks."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.attention import FusedAttention
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked, placed

_TOKENS_ON_CPU = 1 << 10
"""The attention of more tokens at once leaves the cache: a small model then reads half as fast."""
_TOKENS_ELSEWHERE = 1 << 16


def default_batch_size(model: LanguageModel, context: int) -> int:
    """The default number of sequences of `context` tokens in a forward pass.

    Enough to use the device fully, limited on a GPU to a quarter of its free memory. The memory of
    a token is twice the attention scores of all heads, plus multiples of the widths of the MLP
    and the residual stream, in one layer at a time.
    """
    parameter = next(iter(model.parameters()))
    if parameter.device.type != "cuda":
        return max(1, _TOKENS_ON_CPU // context)
    cfg = model.cfg
    mlp = getattr(cfg, "d_mlp", None) or 4 * cfg.d_model
    numbers = 2 * cfg.n_heads * context + 4 * mlp + 16 * cfg.d_model
    free, _ = torch.cuda.mem_get_info(parameter.device)
    n_tokens = free // 4 // (numbers * parameter.element_size())
    return max(1, min(_TOKENS_ELSEWHERE, n_tokens) // context)


Read: TypeAlias = Callable[[Int[Tensor, "b pos"]], dict[str, Float[Tensor, "b pos _"]]]
"""The activations at some hooks, head axes flattened, from a pass over some ids."""

_NONE = FusedAttention()


class _AllRead(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass once every hook asked for has fired."""


@contextmanager
def reading(
    model: LanguageModel, hooks: Sequence[str], attention: FusedAttention = _NONE
) -> Iterator[Read]:
    """A context with the function `activations_at` of ids alone, for many passes.

    The hooks are found and set once: in a small model that takes a good part of a pass. Until
    the end, every pass of `model` ends at the last of them, whoever runs it. The modules of
    `attention` run fused where they may.

    Raises:
        InputError: a hook does not exist; in a pass, it never fires or is not of shape
            [b, pos, ...].
    """
    at: dict[str, Tensor] = {}

    @torch.no_grad()
    def read(ids: Int[Tensor, "b pos"]) -> dict[str, Float[Tensor, "b pos _"]]:
        at.clear()
        with suppress(_AllRead):
            model(placed(ids, model))
        return rows_read(at, hooks, ids)

    with hooked(model, readers(at, hooks, stop=True)), attention.running():
        yield read


def activations_at(
    model: LanguageModel, ids: Int[Tensor, "b pos"], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "b pos _"]]:
    """The activations at `hooks`, head axes flattened, from one forward pass cut short.

    The pass ends as soon as the last of the hooks has fired: nothing deeper is computed, and
    in particular not the unembedding, which in a small model costs as much as all its layers.
    Of a hook that fires several times in a pass, the first activation counts.

    Raises:
        InputError: a hook does not exist, never fires, or is not of shape [b, pos, ...].
    """
    with reading(model, hooks) as read:
        return read(ids)


@torch.no_grad()
def logits_and_activations(
    model: LanguageModel, ids: Int[Tensor, "b pos"], hooks: Sequence[str]
) -> tuple[Float[Tensor, "b pos vocabulary"], dict[str, Float[Tensor, "b pos _"]]]:
    """The logits of an unmodified forward pass, and the result of `activations_at`."""
    at: dict[str, Tensor] = {}
    with hooked(model, readers(at, hooks, stop=False)):
        logits = model(placed(ids, model))
    return logits, rows_read(at, hooks, ids)


@torch.no_grad()
def firing_order(
    model: LanguageModel, ids: Int[Tensor, "b pos"], hooks: Sequence[str]
) -> list[str]:
    """The hooks in the order in which a pass computes them; an `InputError` if one never fires."""
    at: dict[str, Tensor] = {}
    with hooked(model, readers(at, hooks, stop=True)), suppress(_AllRead):
        model(placed(ids, model))
    require_fired(hooks, at)
    return list(at)


def readers(
    at: dict[str, Tensor], hooks: Sequence[str], *, stop: bool
) -> list[tuple[str, HookFunction]]:
    """One function per hook that stores the activation in `at`."""
    names = list(dict.fromkeys(hooks))

    def reader(name: str) -> Callable[..., None]:
        def read(activation: Tensor, hook: object) -> None:
            at.setdefault(name, activation.detach())
            if stop and len(at) == len(names):
                raise _AllRead

        return read

    return [(name, reader(name)) for name in names]


def rows_read(
    at: Mapping[str, Tensor], hooks: Iterable[str], ids: Int[Tensor, "b pos"]
) -> dict[str, Float[Tensor, "b pos _"]]:
    """The activations that `readers` stored in a pass over `ids`, checked, head axes flattened."""
    hooks = dict.fromkeys(hooks)
    require_fired(hooks, at)
    for name in hooks:
        require_rows(at[name], ids.shape, name)
    return {name: at[name].flatten(2) for name in hooks}


def require_rows(activation: Tensor, shape: Sequence[int], name: str) -> None:
    """Raise an `InputError` unless an activation has a vector for every token of ids so shaped."""
    if activation.ndim < 3 or list(activation.shape[:2]) != list(shape):
        raise InputError(
            f"at {name!r}: required an activation of shape [b, pos, ...] with [b, pos] = "
            f"{list(shape)}, got {list(activation.shape)}; choose a hook with one vector for "
            "every token"
        )


def require_fired(hooks: Iterable[str], fired: Collection[str]) -> None:
    """Raise an `InputError` that names the hooks that have not fired, if any."""
    silent = [name for name in hooks if name not in fired]
    if silent:
        raise InputError(
            f"the model never computed the activation at {', '.join(silent)}; choose another hook"
        )
