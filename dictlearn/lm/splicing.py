"""Spliced passes that start where they part from the clean one, for many splices of one batch."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dictlearn.lm.forward import (
    logits_and_activations,
    readers,
    replacing,
    require_fired,
    rows_read,
    spliced_logits,
)
from dictlearn.lm.hooks import HookFunction, LanguageModel, hooked, placed
from dictlearn.lm.shadows import nearly_equal
from dictlearn.lm.shortcuts import Head, Route, answering, head_of, remembering, route_to


@dataclass(frozen=True)
class CleanPass:
    """What an untouched pass over `ids` leaves for spliced ones."""

    ids: Int[Tensor, "b pos"]
    index: Int[Tensor, " m"]
    """The positions whose predictions are wanted, counted along one sequence after another."""
    at: dict[str, Float[Tensor, "b pos _"]]
    rows: Float[Tensor, "m d_row"]
    """What `Splicer.logits` turns into the logits at these positions."""
    memory: dict[nn.Module, Any]


class Splicer:
    """Runs `model` clean, and then again with other activations at one of `targets`.

    What the model has computed before a target cannot depend on what is spliced in there: the
    modules that are done by then answer from memory. And a pass ends where the unembedding
    begins: what it would read, at the positions asked for, becomes logits when `logits` is
    called. Whether a model allows for either is tried out on a few tokens, against full passes
    (`spliced_logits`); where it does not, passes are full, and their rows are the logits.

    It is a context manager: within, its functions are at the model's hooks, once for all passes.

    Raises:
        InputError: a hook does not exist, never fires, or has no vector for every token.
    """

    def __init__(self, model: LanguageModel, hooks: Sequence[str], targets: Sequence[str]) -> None:
        self._model = model
        self._hooks = tuple(dict.fromkeys([*hooks, *targets]))
        self._under_way: dict[str, HookFunction] = {}
        self._stack = ExitStack()
        self._head: Head | None = None
        self._routes: dict[str, Route] = {hook: {} for hook in targets}
        self._find_shortcuts()

    @property
    def device(self) -> torch.device:
        """Where the model begins."""
        return next(iter(self._model.parameters())).device

    @property
    def d_row(self) -> int:
        """The width of the rows that become logits."""
        return self._model.cfg.d_vocab if self._head is None else self._head.weight.shape[0]

    def logits(self, rows: Float[Tensor, "m d_row"], tokens: slice) -> Float[Tensor, "m k"]:
        """The logits of a range of tokens, from the rows of a pass."""
        return rows[:, tokens] if self._head is None else self._head.logits(rows, tokens)

    def __enter__(self) -> "Splicer":
        def stand_in(name: str) -> HookFunction:
            def function(activation: Tensor, hook: object) -> Tensor | None:
                now = self._under_way.get(name)
                return None if now is None else now(activation, hook=hook)

            return function

        functions = [(name, stand_in(name)) for name in self._hooks]
        self._stack.enter_context(hooked(self._model, functions))
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def clean(self, ids: Int[Tensor, "b pos"], wanted: Bool[Tensor, "b pos"]) -> CleanPass:
        """An untouched pass over `ids`, for the predictions made at the positions `wanted`.

        Raises:
            InputError: an activation is not of shape [b, pos, ...].
        """
        ids = placed(ids, self._model)
        index = wanted.to(ids.device).flatten().nonzero()[:, 0]
        at: dict[str, Tensor] = {}
        memory: dict[nn.Module, Any] = {}
        sources = {source for route in self._routes.values() for source in route.values()}
        with remembering(sources, memory, ids.shape[1]):
            rows = self._run(ids, index, dict(readers(at, self._hooks, stop=False)))
        return CleanPass(ids, index, rows_read(at, self._hooks, ids), rows, memory)

    @torch.no_grad()
    def spliced(
        self,
        clean: CleanPass,
        hook: str,
        replacement: Float[Tensor, "b pos d"],
        where: Bool[Tensor, "b pos"],
    ) -> Float[Tensor, "m d_row"]:
        """The rows of another pass, with `replacement` at `hook` where `where` holds.

        Raises:
            InputError: a shape does not match.
        """
        fired = set[str]()
        splice = replacing(hook, clean.ids, replacement, where, fired)
        with answering(self._routes[hook], clean.memory):
            rows = self._run(clean.ids, clean.index, {hook: splice})
        require_fired([hook], fired)
        return rows

    def _run(self, ids: Tensor, index: Tensor, functions: dict[str, HookFunction]) -> Tensor:
        """The rows of one pass, with these functions at hooks."""
        self._under_way = functions
        try:
            everything = (
                self._model(ids) if self._head is None else self._head.read(self._model, ids)
            )
        finally:
            self._under_way = {}
        return everything.flatten(0, 1)[index.to(everything.device)]

    def _find_shortcuts(self) -> None:
        """Take the shortcuts that hold: all of them at once, or else one after another."""
        trial = _Trial(self._model, list(self._routes))
        head = head_of(self._model)
        routes = {hook: route_to(self._model, trial.ids, hook) for hook in self._routes}
        with self:
            if self._hold(trial, head, routes, list(routes)):
                return
            none: dict[str, Route] = {hook: {} for hook in routes}
            head = head if self._hold(trial, head, none, list(routes)) else None
            self._head, self._routes = (
                head,
                none
                | {
                    hook: route
                    for hook, route in routes.items()
                    if self._hold(trial, head, none | {hook: route}, [hook])
                },
            )

    def _hold(
        self, trial: "_Trial", head: Head | None, routes: dict[str, Route], hooks: list[str]
    ) -> bool:
        """Whether passes with these shortcuts, now taken, give the logits of full ones."""
        self._head, self._routes = head, routes
        everywhere = torch.ones_like(trial.ids, dtype=torch.bool)
        every = slice(0, self._model.cfg.d_vocab)
        try:
            clean = self.clean(trial.ids, trial.wanted)
            pairs = [(clean.rows, trial.logits)]
            for hook in hooks:
                y = clean.at[hook]
                zeroed = self.spliced(clean, hook, torch.zeros_like(y), everywhere)
                # Then the clean activation: what is remembered may not have been written to.
                again = self.spliced(clean, hook, y, everywhere)
                pairs += [(zeroed, trial.zeroed[hook]), (again, trial.logits)]
            return all(nearly_equal(self.logits(rows, every), logits) for rows, logits in pairs)
        except Exception:  # a model may fail in any way when parts of it do not run
            return False


class _Trial:
    """A few tokens, and what full passes over them give: clean, and with zeros at each target."""

    def __init__(self, model: LanguageModel, targets: Sequence[str]) -> None:
        n = min(8, model.cfg.n_ctx)
        self.ids = torch.arange(2 * n).reshape(2, n) % model.cfg.d_vocab
        self.wanted = self.ids % 3 < 2
        everywhere = torch.ones_like(self.wanted)
        full, at = logits_and_activations(model, self.ids, targets)
        self.logits = self._chosen(full)
        self.zeroed = {
            hook: self._chosen(
                spliced_logits(model, self.ids, hook, torch.zeros_like(at[hook]), everywhere)
            )
            for hook in targets
        }

    def _chosen(self, logits: Tensor) -> Tensor:
        return logits[self.wanted.to(logits.device)]
