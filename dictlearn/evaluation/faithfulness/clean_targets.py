"""Clean activations at the targets of an evaluation: their means, and those of any sequence."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.massive import massive_rows
from dictlearn.core.sites import Site
from dictlearn.evaluation.faithfulness.ablations import Reference, RunningMean
from dictlearn.evaluation.faithfulness.clean_passes import CleanPasses
from dictlearn.evaluation.stream.activations import ActivationBatch

KEPT_BYTES = 1 << 30
"""Memory for the clean activations at the targets: a gigabyte."""


class CleanTargets:
    """Clean activations at the targets of `passes`.

    All sequences are read once, in order. Their activations are kept if those of the whole set
    fit into `KEPT_BYTES`, and computed again on demand otherwise.
    """

    def __init__(self, passes: CleanPasses) -> None:
        self._stream = passes.stream
        self._means = {site: RunningMean() for site in passes.targets}
        self._kept: dict[str, Tensor] = {}

    def read_(self, done: Callable[[int], None]) -> None:
        """Read all sequences, calling `done` with the number of batches so far."""
        with self._stream.batches() as batches:
            for i, batch in enumerate(batches):
                for site, mean in self._means.items():
                    y = batch.rows_at(site)
                    mean.add_(y, massive_rows(y, batch.row_sequences, site))
                self._keep(batch)
                done(i + 1)

    def _keep(self, batch: ActivationBatch) -> None:
        """Keep the activations of a batch if those of the whole set fit."""
        n = len(self._stream.ids)
        if batch.part.start == 0 and sum(y[0].nbytes for y in batch.at.values()) * n <= KEPT_BYTES:
            self._kept = {hook: y.new_empty(n, *y.shape[1:]) for hook, y in batch.at.items()}
        for hook, kept in self._kept.items():
            kept[batch.part] = batch.at[hook]

    def references(self) -> dict[Site, Reference]:
        """The reference of each target, from the sequences read."""
        return {site: mean.reference() for site, mean in self._means.items()}

    def activations_of(self, sequences: Int[Tensor, " b"]) -> dict[str, Float[Tensor, "b pos _"]]:
        """The activations of these sequences at each target."""
        if self._kept:
            return {hook: y[sequences.to(y.device)] for hook, y in self._kept.items()}
        return self._stream.activations_of(sequences)
