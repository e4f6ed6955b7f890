"""The hook points of a model, each once: its names, the blocks that have it, its width."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.lm.hooks import HookFunction, LanguageModel, hook_points, hooked, placed

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
"""The number of a block in the name of a hook."""


@dataclass(frozen=True)
class HookRow:
    """A hook point, or that of several blocks which differ in nothing else."""

    names: tuple[str, ...]
    """Names of one hook, the most usual first; N stands for the number of a block."""
    blocks: tuple[int, ...]
    """The blocks; none for a hook outside of them."""
    width: int | None
    """The length of the vector at each token, head axes flattened; None where there is no such
    vector (attention patterns), where a pass does not compute it, or where the model's config has
    switched the hook off."""


def hook_rows(model: LanguageModel) -> list[HookRow]:
    """The hook points of `model` in the order of its own list, equal ones of all blocks together.

    Two short passes give the widths.
    """
    names: dict[int, list[str]] = defaultdict(list)
    for name, point in hook_points(model).items():
        names[id(point)].insert(0, name)  # TransformerLens lists its own names behind the module's
    widths = _widths(model, [own[0] for own in names.values()])
    blocks: dict[tuple[tuple[str, ...], int | None], list[int]] = defaultdict(list)
    for own in names.values():
        number = _NUMBER.search(own[0])
        row = tuple(_NUMBER.sub("N", name, count=1) for name in own), widths.get(own[0])
        blocks[row] += [int(number[0])] if number else []
    return [HookRow(own, tuple(found), width) for (own, width), found in blocks.items()]


@torch.no_grad()
def _widths(model: LanguageModel, names: list[str]) -> dict[str, int]:
    """The widths of the hooks that have a vector for every token, at two lengths of text."""
    on = [name for name in names if _is_on(model, name)]
    ids = torch.arange(4).reshape(2, 2) % model.cfg.d_vocab
    short, long = (_shapes(model, on, part) for part in (ids[:, :1], ids))
    return {
        name: torch.Size(shape[2:]).numel()
        for name, shape in long.items()
        if len(shape) > 2 and shape[:2] == (2, 2) and short.get(name) == (2, 1, *shape[2:])
    }


def _shapes(model: LanguageModel, names: list[str], ids: Tensor) -> Mapping[str, tuple[int, ...]]:
    """The shapes of the activations that a pass computes."""
    found: dict[str, tuple[int, ...]] = {}

    def noted(name: str) -> HookFunction:
        def note(activation: Tensor, hook: object) -> None:
            found.setdefault(name, tuple(activation.shape))

        return note

    with hooked(model, [(name, noted(name)) for name in names]):
        model(placed(ids, model))
    return found


def _is_on(model: LanguageModel, name: str) -> bool:
    try:
        with hooked(model, [(name, lambda activation, hook: None)]):
            return True
    except InputError:
        return False
