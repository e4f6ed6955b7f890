"""The pass before the others: clean activations at the targets, over the whole set."""

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.evaluation.ablations import Reference, RunningMean
from dictlearn.lm.forward import activations_at
from dictlearn.lm.hooks import LanguageModel

KEPT_BYTES = 1 << 30
"""A gigabyte: clean activations at the targets are kept if they fit."""


class CleanTargets:
    """Clean activations at `hooks`: their means over counted rows, and those of any sequence.

    Sequences are read once, in order. Their activations are kept where those of the whole set
    fit into `KEPT_BYTES`, and computed again when asked for where they do not.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        hooks: Sequence[str],
    ) -> None:
        self._model, self._ids, self._counted, self._hooks = model, ids, counted, hooks
        self._mean = RunningMean()
        self._kept: dict[str, Tensor] = {}

    def read_(self, part: slice) -> None:
        """Take in the sequences of `part`.

        Raises:
            InputError: an activation is not of shape [b, pos, ...].
            NonFiniteError: one holds NaN or infinity; the sequences are named.
        """
        at = activations_at(self._model, self._ids[part], self._hooks)
        counted = self._counted[part]
        rows = {hook: y[counted.to(y.device)] for hook, y in at.items()}
        for hook, y in rows.items():
            require_finite(y, f"activations at {hook!r}, sequences from {part.start}")
        self._mean.add_(rows)
        n = len(self._ids)
        if part.start == 0 and sum(y[0].nbytes for y in at.values()) * n <= KEPT_BYTES:
            self._kept = {hook: y.new_empty(n, *y.shape[1:]) for hook, y in at.items()}
        for hook, kept in self._kept.items():
            kept[part] = at[hook]

    def references(self) -> dict[str, Reference]:
        """What the sequences read say about each target."""
        return self._mean.references()

    def of(self, sequences: Int[Tensor, " b"]) -> dict[str, Float[Tensor, "b pos _"]]:
        """The activations of these sequences."""
        if self._kept:
            return {hook: y[sequences.to(y.device)] for hook, y in self._kept.items()}
        return activations_at(self._model, self._ids[sequences.cpu()], self._hooks)
