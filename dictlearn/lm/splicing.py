"""Spliced passes that reuse the clean pass up to the splice, for many splices of one batch."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dictlearn.lm.forward import readers, require_fired, rows_read
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked, placed
from dictlearn.lm.patching import Patch, as_hook, splice
from dictlearn.lm.shortcuts import Shortcuts, answering, remembering


@dataclass(frozen=True)
class CleanPass:
    """The results of an unmodified pass over `ids` that spliced passes reuse."""

    ids: Int[Tensor, "b pos"]
    index: Int[Tensor, " m"]
    """The positions whose predictions are wanted, along one sequence after another."""
    at: dict[str, Float[Tensor, "b pos _"]]
    rows: Float[Tensor, "m d_row"]
    """The rows from which `Splicer.logits` computes the logits at these positions."""
    memory: dict[nn.Module, Any]


class Splicer:
    """Runs `model` clean, and then again with functions at some of `hooks`.

    A context manager: within, its functions are at the model's hooks, once for all passes. Passes
    are plain unless it is given `shortcuts`; `lm.trials.splicer_with_shortcuts` finds those that
    may be used.

    Raises:
        InputError: a hook does not exist or never fires, an activation is not of shape
            [b, pos, ...], or a function returns another shape.
    """

    def __init__(self, model: LanguageModel, hooks: Sequence[str]) -> None:
        self.model = model
        self._hooks = tuple(dict.fromkeys(hooks))
        self._under_way: dict[str, HookFunction] = {}
        self._stack = ExitStack()
        self.shortcuts = Shortcuts()

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameters."""
        return next(iter(self.model.parameters())).device

    @property
    def d_row(self) -> int:
        """The width of the rows that become logits."""
        head = self.shortcuts.head
        return self.model.cfg.d_vocab if head is None else head.weight.shape[0]

    def logits(self, rows: Float[Tensor, "m d_row"], tokens: slice) -> Float[Tensor, "m k"]:
        """The logits of a range of tokens, from the rows of a pass."""
        head = self.shortcuts.head
        return rows[:, tokens] if head is None else head.logits(rows, tokens)

    def __enter__(self) -> "Splicer":
        def stand_in(name: str) -> HookFunction:
            def function(activation: Tensor, hook: object) -> Tensor | None:
                now = self._under_way.get(name)
                return None if now is None else now(activation, hook=hook)

            return function

        functions = [(name, stand_in(name)) for name in self._hooks]
        self._stack.enter_context(hooked(self.model, functions))
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def clean(self, ids: Int[Tensor, "b pos"], wanted: Bool[Tensor, "b pos"]) -> CleanPass:
        """An unmodified pass over `ids`, for the predictions made at the positions `wanted`."""
        ids = placed(ids, self.model)
        index = wanted.to(ids.device).flatten().nonzero()[:, 0]
        at: dict[str, Tensor] = {}
        memory: dict[nn.Module, Any] = {}
        routes = self.shortcuts.routes.values()
        sources = {source for route in routes for source in route.values()}
        with self.shortcuts.attention.running(), remembering(sources, memory):
            rows = self._run(ids, index, dict(readers(at, self._hooks, stop=False)))
        return CleanPass(ids, index, rows_read(at, self._hooks, ids), rows, memory)

    @torch.no_grad()
    def patched(
        self, clean: CleanPass, patches: Mapping[str, Sequence[Patch]]
    ) -> Float[Tensor, "m d_row"]:
        """The rows of another pass over the same ids, with functions at hooks."""
        positions = torch.arange(clean.ids.shape[1], device=clean.ids.device)
        positions = positions.expand_as(clean.ids)
        fired = set[str]()

        def positions_at(name: str) -> Int[Tensor, "b pos"]:
            fired.add(name)
            return positions

        functions = {hook: as_hook(hook, some, positions_at) for hook, some in patches.items()}
        routes = self.shortcuts.routes.items()
        route = next((route for hooks, route in routes if {*hooks} == patches.keys()), {})
        with self.shortcuts.attention.running(), answering(route, clean.memory):
            rows = self._run(clean.ids, clean.index, functions)
        require_fired(patches, fired)
        return rows

    def spliced(
        self,
        clean: CleanPass,
        replacements: Mapping[str, Float[Tensor, "b pos _"]],
        where: Bool[Tensor, "b pos"],
    ) -> Float[Tensor, "m d_row"]:
        """The rows of another pass, with replacements at hooks where `where` holds."""
        return self.patched(clean, {hook: [splice(y, where)] for hook, y in replacements.items()})

    def _run(self, ids: Tensor, index: Tensor, functions: dict[str, HookFunction]) -> Tensor:
        """The rows of one pass, with these functions at hooks."""
        self._under_way = functions
        head = self.shortcuts.head
        try:
            everything = self.model(ids) if head is None else head.read(self.model, ids)
        finally:
            self._under_way = {}
        return everything.flatten(0, 1)[index.to(everything.device)]
