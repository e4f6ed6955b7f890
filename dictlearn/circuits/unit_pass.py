"""A pass of one token that keeps linear maps alone: norms have scale 1, MLPs and heads are cut."""

import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.frozen import EMBEDDING, attention_hooks, firing, mlp_hooks
from dictlearn.lm.hooks import LanguageModel, hook_names, hook_points, hooked, placed
from dictlearn.lm.patching import Patch, patched

_AT_ONCE = 512
"""Functions in one backward pass."""


@dataclass
class UnitPass:
    """The tensors of a pass whose gradients are maps between hooks, heads apart."""

    leaves: dict[str, Float[Tensor, "1 1 d"]] = field(default_factory=dict)
    """At the hooks that a direction is wanted for, the embedding, and outputs of MLPs."""
    sources: dict[str, Float[Tensor, "1 1 d"]] = field(default_factory=dict)
    values: dict[int, Float[Tensor, "1 1 d_v"]] = field(default_factory=dict)
    """The value vectors of all heads, by layer."""
    heads: dict[int, Float[Tensor, "1 1 d_z"]] = field(default_factory=dict)
    """The joined outputs of heads, by layer."""

    def back(
        self, seeds: Sequence[tuple[Tensor, Float[Tensor, "m _"]]], wanted: Sequence[Tensor]
    ) -> "list[Float[Tensor, 'm _'] | None]":
        """The gradients of sums of products of `seeds` with tensors; None where none depends."""
        parts = []
        for start in range(0, len(seeds[0][1]), _AT_ONCE):
            rows = [seed[start : start + _AT_ONCE, None, None].to(t) for t, seed in seeds]
            parts.append(torch.autograd.grad(
                [tensor for tensor, _ in seeds], wanted, rows,
                retain_graph=True, allow_unused=True, is_grads_batched=True,
            ))  # fmt: skip
        columns = zip(*parts, strict=True)
        return [None if c[0] is None else torch.cat(c).flatten(1) for c in columns]


def unit_pass(model: LanguageModel, sources: Sequence[str], at: Sequence[str]) -> UnitPass:
    """The pass with the hooks `at` cut, which reads `sources` after the cut, if at one hook.

    What is cut is zero; so are all outputs of MLPs and heads, since only maps matter.

    Raises:
        InputError: a layer has no value vectors or no joined outputs of heads to cut.
    """
    attention, run = attention_hooks(model), UnitPass()
    require_heads(attention, model.cfg.n_layers)
    points, first = hook_points(model), dict[int, str]()
    patches: dict[str, list[Patch]] = defaultdict(list)

    def add(hook: str, patch: Patch) -> None:
        patches[first.setdefault(id(points[hook]), hook)].append(patch)

    mlps = mlp_hooks(model)
    outputs = [output for _, output in mlps.values()]
    # Behind others a norm may follow, and what is written before it is not to be cut once more.
    others = [layer for layer in attention if layer not in mlps]
    outputs += firing(model, [f"blocks.{layer}.hook_mlp_out" for layer in others])
    for layer, (_, output) in attention.items():
        add(output, _leaf(run.heads, layer))
    for hook in (*outputs, *firing(model, [EMBEDDING]), *at):  # at one hook, the last cut counts
        add(hook, _leaf(run.leaves, hook))
    for hook in sources:
        add(hook, _tap(run.sources, hook))
    for layer, (value, _) in attention.items():
        add(value, _tap(run.values, layer))
    names = [name for name in hook_names(model) if name.endswith(".hook_scale")]
    holds = [(hook, _one) for hook in firing(model, names)]
    with (
        torch.enable_grad(), warnings.catch_warnings(),
        patched(model, patches), hooked(model, holds),
    ):  # fmt: skip
        warnings.filterwarnings("ignore", "A forward hook edited")
        model(placed(torch.zeros(1, 1, dtype=torch.long), model))
    return run


def require_heads(layers: Collection[int], n_layers: int) -> None:
    """Raise an `InputError` unless the heads of all layers of a model can be cut."""
    if without := sorted(set(range(n_layers)) - set(layers)):
        raise InputError(
            f"required a model whose layers all have attention heads, got layers {without} without "
            "hooks for them: what passes there is not known to be linear; use another model"
        )


def _leaf(found: dict[Any, Tensor], key: object) -> Patch:
    def leaf(y: Tensor, positions: Tensor) -> Tensor:
        found[key] = torch.zeros_like(y).requires_grad_()
        return found[key]

    return leaf


def _tap(found: dict[Any, Tensor], key: object) -> Patch:
    def tap(x: Tensor, positions: Tensor) -> Tensor:
        found[key] = x.view_as(x)
        return found[key]

    return tap


def _one(scale: Tensor, hook: object) -> Tensor:
    return torch.ones_like(scale)
