"""The pass before the others: clean activations at the targets, over the whole set."""

from collections.abc import Callable, Iterable, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.batches import require_finite
from dictlearn.evaluation.ablations import Reference, RunningMean
from dictlearn.evaluation.passes import Passes

KEPT_BYTES = 1 << 30
"""A gigabyte: clean activations at the targets are kept if they fit."""


class CleanTargets:
    """Clean activations at the targets of `passes`: means over counted rows, and any sequence's.

    Sequences are read once, in order. Their activations are kept where those of the whole set
    fit into `KEPT_BYTES`, and computed again when asked for where they do not.
    """

    def __init__(self, passes: Passes) -> None:
        self._passes = passes
        self._mean = RunningMean()
        self._kept: dict[str, Tensor] = {}

    def read_(self, parts: Iterable[slice], done: Callable[[int], None]) -> None:
        """Take in the sequences of all `parts`, calling `done` with the number of parts so far.

        Raises:
            InputError: an activation is not of shape [b, pos, ...].
            NonFiniteError: one holds NaN or infinity; the sequences are named.
        """
        with self._passes.reading_targets() as read:
            for i, part in enumerate(parts):
                self._take_in(part, read(self._passes.ids[part]))
                done(i + 1)

    def _take_in(self, part: slice, at: Mapping[str, Float[Tensor, "b pos _"]]) -> None:
        counted = self._passes.counted[part]
        rows = {hook: y[counted.to(y.device)] for hook, y in at.items()}
        for hook, y in rows.items():
            require_finite(y, f"activations at {hook!r}, sequences from {part.start}")
        self._mean.add_(rows)
        n = len(self._passes.ids)
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
        with self._passes.reading_targets() as read:
            return read(self._passes.ids[sequences.cpu()])
