"""Temporary replacement of the `forward` of modules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def shadowed(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """A context in which these functions are the `forward` of these modules.

    They shadow the methods in the instances' own namespaces: hooks of the modules still fire,
    and a class that has its own way of setting attributes is left out of it.
    """
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, shadow in before.items():
            vars(module).pop("forward", None)
            if shadow is not None:
                vars(module)["forward"] = shadow


@contextmanager
def silenced(module: nn.Module) -> Iterator[None]:
    """A context in which no function is called at a hook inside `module`."""
    attached = [(m, m._forward_hooks) for m in module.modules() if m._forward_hooks]
    try:
        for inner, hooks in attached:
            inner._forward_hooks = type(hooks)()
        yield
    finally:
        for inner, hooks in attached:
            inner._forward_hooks = hooks


def nearly_equal(
    found: Tensor, expected: Tensor, n_steps: int = 1, like: Tensor | None = None
) -> bool:
    """Whether two results are equal up to rounding in their dtype, in `n_steps` steps.

    The measure is what varies between rows of `like`, or of what is expected: an offset that all
    share, as logits may have, would hide a difference. Where nothing varies, they have to be
    equal: give a `like` of the same size and meaning if rows may be alike by chance. Rounding
    errors of successive steps add up like a random walk. What is not finite counts as equal.
    """
    tolerance = max(1e-5, 2 * torch.finfo(expected.dtype).eps) * max(n_steps, 1) ** 0.5
    like = _finer(expected if like is None else like).flatten(0, -2)
    found, expected = (_finer(x).flatten(0, -2) for x in (found, expected))
    finite = expected.isfinite()
    if not torch.equal(found.isfinite(), finite):
        return False
    error = (found - expected).where(finite, 0)
    like = like.where(like.isfinite(), 0)
    return bool(error.norm() <= tolerance * (like - like.mean(dim=0)).norm())


def _finer(x: Tensor) -> Tensor:
    """`x` in a dtype in which squares of its values can be summed."""
    return x if x.dtype == torch.float64 else x.float()
