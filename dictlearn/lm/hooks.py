"""Hook points of a language model, by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from jaxtyping import Int
from torch import Tensor, nn

from dictlearn.core.errors import InputError, nearest

LanguageModel: TypeAlias = Any
"""Anything with TransformerLens hooks: a `TransformerBridge` or a `HookedTransformer`."""

HookFunction: TypeAlias = Callable[..., Tensor | None]
"""Called with the activation and `hook=`; its result replaces the activation."""


@dataclass(frozen=True)
class _Made:
    """The hook points of a bridge, and the state that it had when they were listed."""

    state: tuple[Any, ...]
    points: Mapping[str, Any]


_MADE: WeakKeyDictionary[Any, _Made] = WeakKeyDictionary()


def hook_points(model: LanguageModel) -> Mapping[str, Any]:
    """The hook points of `model` by name, aliases included.

    A `TransformerBridge` resolves every alias anew whenever it is asked (tens of milliseconds in a
    model of 30 layers), so the answer is kept until the points that it has of its own change.
    """
    own = getattr(model, "_hook_registry", None)
    if own is None:
        return model.hook_dict
    state = (getattr(model, "compatibility_mode", False), tuple(own), tuple(map(id, own.values())))
    made = _MADE.get(model)
    if made is None or made.state != state:
        made = _MADE[model] = _Made(state, model.hook_dict)
    return made.points


def hook_names(model: LanguageModel) -> list[str]:
    """The names of all hooks of `model`, aliases included."""
    return list(hook_points(model))


def is_same_hook(model: LanguageModel, name: str, other: str) -> bool:
    """Whether two names are aliases of one hook of `model`."""
    points = hook_points(model)
    return name == other or (name in points and points[name] is points.get(other))


def require_hooks(model: object) -> None:
    """Raise an `InputError` unless `model` is a language model with TransformerLens hooks."""
    if not all(hasattr(model, needed) for needed in ("check_hooks_to_add", "hooks", "cfg")):
        raise InputError(
            "required a model with TransformerLens hooks (load_model, TransformerBridge, "
            f"HookedTransformer), got {type(model).__name__}; wrap it with TransformerBridge"
        )


def require_hook(model: LanguageModel, name: str) -> None:
    """Raise an `InputError` that suggests the nearest names unless `model` has this hook."""
    points = hook_points(model)
    if name not in points:
        raise InputError(f"the model has no hook {name!r}; {nearest(name, points)}")


@contextmanager
def hooked(
    model: LanguageModel, functions: Sequence[tuple[str, HookFunction]]
) -> Iterator[LanguageModel]:
    """`model` with these functions at its hooks; they are removed at the end, also after errors.

    Raises:
        InputError: a hook does not exist, or is switched off in the model's config.
    """
    points = hook_points(model)
    handles: list[tuple[Any, Any]] = []
    try:
        for name, function in functions:
            require_hook(model, name)
            point = points[name]
            _require_on(model, point, function)
            point.add_hook(function)
            handles.append((point, point.fwd_hooks[-1]))
        yield model
    finally:
        for point, handle in handles:
            if handle in point.fwd_hooks:  # unless the model was told to drop all its hooks
                point.fwd_hooks.remove(handle)
            handle.hook.remove()


def _require_on(model: LanguageModel, point: Any, function: HookFunction) -> None:
    """Raise an `InputError` if the model's config has switched a hook off."""
    check = model.check_hooks_to_add
    takes_a_name = "hook_point" not in signature(check).parameters  # a bridge, before version 4
    arguments = (point.name,) if takes_a_name else (point, point.name, function)
    try:
        check(*arguments)
    except (AssertionError, ValueError) as error:
        raise InputError(f"the model does not offer one of these hooks: {error}") from error


def placed(ids: Int[Tensor, "b pos"], model: LanguageModel) -> Int[Tensor, "b pos"]:
    """`ids` on the device of `model`."""
    return ids.to(next(iter(model.parameters())).device)


def wrapped(model: LanguageModel) -> nn.Module | None:
    """The model inside a bridge; None for a `HookedTransformer`, which has none inside."""
    inner = getattr(model, "original_model", None)
    return inner if isinstance(inner, nn.Module) else None


def is_native(model: LanguageModel) -> bool:
    """Whether TransformerLens itself implements the model inside a bridge."""
    from transformer_lens.model_bridge.sources.native import NativeModel

    return isinstance(wrapped(model), NativeModel)
