"""Hook points of a language model, by name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from jaxtyping import Int
from torch import Tensor, nn

from dictlearn.core.errors import InputError, nearest

LanguageModel: TypeAlias = Any
"""Anything with TransformerLens hooks: a `TransformerBridge` or a `HookedTransformer`."""

HookFunction: TypeAlias = Callable[..., Tensor | None]
"""Called with the activation and `hook=`; its result replaces the activation."""


def hook_names(model: LanguageModel) -> list[str]:
    """The names of all hooks of `model`, aliases included."""
    return list(model.hook_dict)


def is_same_hook(model: LanguageModel, name: str, other: str) -> bool:
    """Whether two names are aliases of one hook of `model`."""
    points = model.hook_dict
    return name == other or (name in points and points[name] is points.get(other))


def require_hooks(model: object) -> None:
    """Raise an `InputError` unless `model` is a language model with TransformerLens hooks."""
    if not all(hasattr(model, needed) for needed in ("hook_dict", "hooks", "cfg")):
        raise InputError(
            "required a model with TransformerLens hooks (load_model, TransformerBridge, "
            f"HookedTransformer), got {type(model).__name__}; wrap it with TransformerBridge"
        )


def require_hook(model: LanguageModel, name: str) -> None:
    """Raise an `InputError` that suggests the nearest names unless `model` has this hook."""
    names = hook_names(model)
    if name not in names:
        raise InputError(f"the model has no hook {name!r}; {nearest(name, names)}")


@contextmanager
def hooked(
    model: LanguageModel, functions: Sequence[tuple[str, HookFunction]]
) -> Iterator[LanguageModel]:
    """`model` with these functions at its hooks; they are removed at the end, also after errors.

    Raises:
        InputError: a hook does not exist, or is switched off in the model's config.
    """
    for name, _ in functions:
        require_hook(model, name)
    with ExitStack() as stack:
        try:
            stack.enter_context(model.hooks(fwd_hooks=list(functions)))
        except (AssertionError, ValueError) as error:
            raise InputError(f"the model does not offer one of these hooks: {error}") from error
        yield model


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
