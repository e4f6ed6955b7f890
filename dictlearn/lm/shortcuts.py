"""Faster passes: fused attention, reused module outputs, unembedding of selected rows only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.lm.attention import FusedAttention
from dictlearn.lm.hooks import HookFunction, LanguageModel, hook_points, hooked, placed
from dictlearn.lm.shadows import shadowed

Route: TypeAlias = dict[nn.Module, nn.Module]
"""Modules that a spliced pass need not run, each with the one whose clean output it gives."""


class _AtUnembedding(Exception):  # noqa: N818 - a signal, not an error
    """Ends a forward pass where the unembedding begins."""


@dataclass(frozen=True)
class Head:
    """An unembedding that is one affine map, and the last thing that the model does."""

    module: nn.Module
    weight: Float[Tensor, "d vocab"]
    bias: Float[Tensor, " vocab"] | None

    def read(self, model: LanguageModel, ids: Int[Tensor, "b pos"]) -> Float[Tensor, "b pos d"]:
        """The input of the unembedding in a pass over `ids`, which ends there."""
        reached: list[Tensor] = []

        def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            reached.append(args[0])
            raise _AtUnembedding

        handle = self.module.register_forward_pre_hook(stop)
        try:
            with suppress(_AtUnembedding):
                model(ids)
        finally:
            handle.remove()
        return reached[0]

    def logits(self, rows: Float[Tensor, "m d"], tokens: slice) -> Float[Tensor, "m k"]:
        """The logits of a range of tokens."""
        weight = self.weight[:, tokens]
        return rows @ weight if self.bias is None else torch.addmm(self.bias[tokens], rows, weight)


@dataclass(frozen=True)
class Shortcuts:
    """The shortcuts of a pass, which leave its results unchanged; none by default."""

    attention: FusedAttention = field(default_factory=FusedAttention)
    """Attention modules that run fused where they may."""
    head: Head | None = None
    """The unembedding, if it is applied only to rows whose predictions are needed."""
    routes: Mapping[tuple[str, ...], Route] = field(default_factory=dict)
    """By jointly patched hooks, the modules whose outputs of the clean pass are reused."""

    @property
    def names(self) -> list[str]:
        """The shortcuts that were taken so far, by the names that records use."""
        on = {
            "fused attention": bool(self.attention.used),
            "unembedding of counted rows": self.head is not None,
            "remembered outputs": any(self.routes.values()),
        }
        return [name for name, taken in on.items() if taken]


def head_of(model: LanguageModel) -> Head | None:
    """The unembedding of `model`, if it has one with weights that can be seen."""
    module = getattr(model, "unembed", None)
    weight, bias = getattr(module, "W_U", None), getattr(module, "b_U", None)
    if not isinstance(module, nn.Module) or not isinstance(weight, Tensor):
        return None
    return Head(module, weight, bias if isinstance(bias, Tensor) and bias.any() else None)


def routes_to(
    model: LanguageModel, ids: Int[Tensor, "b pos"], targets: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Route]:
    """The modules that finish before the first hook of each target fires.

    Of modules inside each other the outermost, and only those that run once in a pass.

    One answer does for all blocks before: that of the last of them, whose input is not used.
    """
    hooks = dict.fromkeys(hook for target in targets for hook in target)
    points = set(hook_points(model).values())
    modules = [module for module in model.modules() if module not in points]
    calls = dict.fromkeys(modules, 0)
    done: list[list[nn.Module]] = [[]]  # in the pass, and in each module that is under way
    found: dict[str, list[nn.Module]] = {}

    def enter(module: nn.Module, args: Any) -> None:
        calls[module] += 1
        done.append([])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        done.pop()
        done[-1].append(module)

    def note(name: str) -> HookFunction:
        def fire(activation: Tensor, hook: object) -> None:
            found.setdefault(name, [module for level in done for module in level])

        return fire

    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    try:
        with torch.no_grad(), hooked(model, [(hook, note(hook)) for hook in hooks]):
            model(placed(ids, model))
    finally:
        for handle in handles:
            handle.remove()
    first = {
        target: next((found[hook] for hook in found if hook in target), []) for target in targets
    }
    return {target: _route(model, modules, calls) for target, modules in first.items()}


def _route(
    model: LanguageModel, done: Iterable[nn.Module], calls: Mapping[nn.Module, int]
) -> Route:
    route = {module: module for module in done if calls[module] == 1}
    blocks = [block for block in getattr(model, "blocks", ()) if block in route]
    return route | {block: blocks[-1] for block in blocks}


@contextmanager
def remembering(modules: Iterable[nn.Module], memory: dict[nn.Module, Any]) -> Iterator[None]:
    """A context in which the outputs of these modules are stored in `memory`."""

    def remember(module: nn.Module) -> Callable[..., Any]:
        """The module's `forward`, which also stores its output."""
        run = module.forward

        @wraps(run)  # a block of a bridge reads the signature of what it wraps
        def forward(*args: Any, **kwargs: Any) -> Any:
            memory[module] = run(*args, **kwargs)
            return memory[module]

        return forward

    with shadowed({module: remember(module) for module in modules}):
        yield


@contextmanager
def answering(route: Route, memory: dict[nn.Module, Any]) -> Iterator[None]:
    """A context in which the modules of `route` return stored outputs instead of running."""

    def answer(output: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: output

    with shadowed({module: answer(memory[source]) for module, source in route.items()}):
        yield
