"""Trials of shortcuts: each is used only where passes with and without it agree."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.shortcuts import shortcuts_allowed
from dictlearn.lm.attention import FusedAttention, fusable_attention
from dictlearn.lm.forward import logits_and_activations
from dictlearn.lm.hooks import LanguageModel, placed
from dictlearn.lm.patching import patched, splice
from dictlearn.lm.shadows import nearly_equal
from dictlearn.lm.shortcuts import Route, Shortcuts, head_of, routes_to
from dictlearn.lm.splicing import CleanPass, Splicer

Target: TypeAlias = tuple[str, ...]
"""Hooks that are patched together."""

logger = logging.getLogger(__name__)

_TRIED = (2, 16)
"""Most sequences on which shortcuts are tried, and most of their tokens."""
_KL = 1e-6
"""Nats by which the identity may change the predictions in float32: rounding, where sums are
reordered, as TransformerLens does in a normalisation that someone writes into."""


@torch.no_grad()
def splicer_with_shortcuts(
    model: LanguageModel,
    hooks: Sequence[str],
    targets: Sequence[tuple[str, ...]],
    ids: Int[Tensor, "b pos"],
) -> Splicer:
    """A `Splicer` with all shortcuts that pass a trial on the first few tokens of `ids`.

    It reads `hooks`, and patches the hooks of one of the `targets` at a time, all together.

    With all of them on, and its functions at the hooks, passes have to give what plain passes
    give: at every hook and in the logits, clean and with zeros at each target; and the clean
    activation in its own place must change nothing. Where they do not, the shortcuts are added
    one after another, each kept if it agrees beside those before; a line in the log names those
    that do not. None is used where shortcuts are switched off (`core.shortcuts`). Whether attention
    may run fused depends on the length of sequences, so that is tried again at that of `ids`, in
    the first pass over them (`FusedAttention`).

    Raises:
        InputError: a hook does not exist, never fires, or has no vector for every token; or a
            target replaced by itself changes the predictions, even in plain passes.
    """
    targets = list(dict.fromkeys(map(tuple, targets)))
    hooks = list(dict.fromkeys([*hooks, *(hook for target in targets for hook in target)]))
    splicer = Splicer(model, hooks)
    splicer.shortcuts = _Trial(model, splicer, hooks, ids).find(targets)
    splicer.shortcuts.attention.used.clear()
    return splicer


class _Trial:
    """A plain pass over some tokens, and passes with shortcuts to compare with it."""

    def __init__(
        self, model: LanguageModel, splicer: Splicer, hooks: list[str], ids: Int[Tensor, "b pos"]
    ) -> None:
        ids = _varied(ids[: _TRIED[0], : _TRIED[1]], model)
        self._model, self._splicer, self._hooks, self._ids = model, splicer, hooks, ids
        self._everywhere = torch.ones_like(ids, dtype=torch.bool)
        self._logits, self._at = logits_and_activations(model, ids, hooks)
        self._most_kl = max(_KL, 8 * torch.finfo(self._logits.dtype).eps ** 2)

    def find(self, targets: list[Target]) -> Shortcuts:
        """The shortcuts that agree with plain passes together, for splices at these targets."""
        if not shortcuts_allowed():
            self._require_identities(targets)
            return Shortcuts()
        head, attention = head_of(self._model), fusable_attention(self._model)
        every = Shortcuts(attention, head, self._routes(targets, attention))
        if self._holds(every, targets):
            return every
        self._require_identities(targets)
        kept = Shortcuts()
        kept = self._extended(kept, targets, "fused attention", attention=attention)
        kept = self._extended(kept, targets, "an unembedding of some rows only", head=head)
        for target, route in self._routes(targets, kept.attention).items():
            routes = {**kept.routes, target: route}
            name = f"the modules before {' and '.join(target)}"
            kept = self._extended(kept, [target], name, routes=routes)
        if self._holds(kept, targets):
            return kept
        logger.warning("shortcuts that pass their trials one by one fail together: none is used")
        return Shortcuts()

    def _extended(
        self, kept: Shortcuts, targets: list[Target], what: str, **found: Any
    ) -> Shortcuts:
        """`kept` with one more shortcut, if it passes its trial."""
        tried = replace(kept, **found)
        if tried == kept or self._holds(tried, targets):
            return tried
        logger.warning(
            "this model gives other results with the shortcut for %s, which is not used", what
        )
        return kept

    def _routes(self, targets: list[Target], attention: FusedAttention) -> dict[Target, Route]:
        with self._splicer, attention.running():
            return routes_to(self._model, self._ids, targets)

    def _holds(self, shortcuts: Shortcuts, targets: Iterable[Target]) -> bool:
        """Whether passes with these shortcuts agree with plain ones."""
        self._splicer.shortcuts = shortcuts
        n_steps = 1 + len(shortcuts.attention)
        try:
            clean = self._clean()
            pairs = [(clean.at[hook], self._at[hook]) for hook in self._hooks]
            pairs.append((self._logits_of(clean.rows), self._logits.flatten(0, 1)))
            return all(nearly_equal(*pair, n_steps) for pair in pairs) and all(
                self._holds_at(target, clean, n_steps) for target in targets
            )
        except Exception:  # a model may fail in any way when parts of it do not run
            return False

    def _holds_at(self, target: Target, clean: CleanPass, n_steps: int) -> bool:
        zeros = {hook: torch.zeros_like(clean.at[hook]) for hook in target}
        with patched(self._model, {hook: splice(y, self._everywhere) for hook, y in zeros.items()}):
            expected = self._model(placed(self._ids, self._model)).flatten(0, 1)
        found = self._logits_of(self._spliced(clean, zeros))
        # The identity comes last: what is remembered may not have been written to.
        return (
            nearly_equal(found, expected, n_steps, like=self._logits)
            and self._identity_kl(target, clean) <= self._most_kl
        )

    def _require_identities(self, targets: Iterable[Target]) -> None:
        """Check in plain passes that each target replaced by itself changes nothing."""
        self._splicer.shortcuts = Shortcuts()
        clean = self._clean()
        for target in targets:
            try:
                kl = self._identity_kl(target, clean)
            except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(
                    f"this model fails when the activation at {' and '.join(target)} is replaced "
                    f"({error!r:.200}); choose another hook"
                ) from error
            if not kl <= self._most_kl:
                raise InputError(
                    f"the activation at {' and '.join(target)}, put in its own place, changes the "
                    f"predictions by {kl:.3g} nats a token: this model computes it more than once "
                    "in a pass, or not alone; choose another hook"
                )

    def _identity_kl(self, target: Target, clean: CleanPass) -> float:
        """Divergence from the clean predictions, per token, with the clean activation in place."""
        again = self._spliced(clean, {hook: clean.at[hook] for hook in target})
        if torch.equal(again.nan_to_num(), clean.rows.nan_to_num()):
            return 0.0
        expected, found = (
            self._logits_of(rows).double().log_softmax(dim=-1) for rows in (clean.rows, again)
        )
        return float((expected.exp() * (expected - found)).sum(dim=-1).mean())

    def _clean(self) -> CleanPass:
        with self._splicer:
            return self._splicer.clean(self._ids, self._everywhere)

    def _spliced(self, clean: CleanPass, replacements: dict[str, Tensor]) -> Tensor:
        with self._splicer:
            return self._splicer.spliced(clean, replacements, self._everywhere)

    def _logits_of(self, rows: Float[Tensor, "m d_row"]) -> Float[Tensor, "m vocab"]:
        return self._splicer.logits(rows, slice(0, self._model.cfg.d_vocab))


def _varied(ids: Int[Tensor, "b pos"], model: LanguageModel) -> Int[Tensor, "b_2 pos"]:
    """`ids` and two sequences of random tokens, of the same length.

    For trials: what a shortcut would change does not show where all tokens of a sequence are equal.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(model.cfg.d_vocab, (2, ids.shape[1]), generator=generator)
    return torch.cat([ids, random.to(ids)])
