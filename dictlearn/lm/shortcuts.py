"""What need not run again in a spliced pass: modules done before the hook, and the unembedding."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dictlearn.lm.hooks import LanguageModel, hooked, placed
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
        """What reaches the unembedding in a pass over `ids`, which ends there."""
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


def head_of(model: LanguageModel) -> Head | None:
    """The unembedding of `model`, if it has one with weights that can be seen."""
    module = getattr(model, "unembed", None)
    weight, bias = getattr(module, "W_U", None), getattr(module, "b_U", None)
    if not isinstance(module, nn.Module) or not isinstance(weight, Tensor):
        return None
    return Head(module, weight, bias if isinstance(bias, Tensor) and bias.any() else None)


def route_to(model: LanguageModel, ids: Int[Tensor, "b pos"], hook: str) -> Route:
    """What is done when `hook` fires: the outermost of those modules that run once in a pass.

    One answer does for all blocks before: that of the last of them, whose input is not used.
    """
    points = set(model.hook_dict.values())
    modules = [module for module in model.modules() if module not in points]
    calls = dict.fromkeys(modules, 0)
    done: list[list[nn.Module]] = [[]]  # in the pass, and in each module that is under way
    found: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        calls[module] += 1
        done.append([])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        done.pop()
        done[-1].append(module)

    def fire(activation: Tensor, hook: object) -> None:
        if not found:
            found.extend(module for level in done for module in level)

    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    try:
        with torch.no_grad(), hooked(model, [(hook, fire)]):
            model(placed(ids, model))
    finally:
        for handle in handles:
            handle.remove()
    route = {module: module for module in found if calls[module] == 1}
    blocks = [block for block in getattr(model, "blocks", ()) if block in route]
    return route | {block: blocks[-1] for block in blocks}


@contextmanager
def remembering(
    modules: Iterable[nn.Module], memory: dict[nn.Module, Any], n: int
) -> Iterator[None]:
    """While it lasts, `memory` takes in what these modules give for sequences of `n` tokens."""

    def remember(module: nn.Module) -> Callable[..., Any]:
        run = module.forward

        @wraps(run)  # a block of a bridge reads the signature of what it wraps
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = run(*args, **kwargs)
            memory[module] = _without_pattern(output, n)
            return output

        return forward

    with shadowed({module: remember(module) for module in modules}):
        yield


@contextmanager
def answering(route: Route, memory: dict[nn.Module, Any]) -> Iterator[None]:
    """While it lasts, the modules of `route` do not run, and give what is in memory."""

    def answer(output: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: output

    with shadowed({module: answer(memory[source]) for module, source in route.items()}):
        yield


def _without_pattern(output: Any, n: int) -> Any:
    """`output` with nothing in the place of attention patterns: large, and of no use to a block."""
    if not isinstance(output, tuple):
        return output
    return tuple(
        None if isinstance(part, Tensor) and part.shape[-2:] == (n, n) else part for part in output
    )
