"""Zero, mean and resample ablation of a target: the reference points of loss recovered."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ABLATIONS = ("zero", "mean", "resample")
"""The names of the ablations, in the order of `Reference.ablations`."""


@dataclass(frozen=True)
class Reference:
    """The mean activation at one target, over the evaluated rows of the whole evaluation set."""

    mean: Float[Tensor, " d"]
    typical_mean: Float[Tensor, " d"]
    """The mean over the rows that are not massive (`core.massive`)."""

    def ablations(
        self, y: Float[Tensor, "n d"], others: Float[Tensor, "n d"]
    ) -> Iterator[tuple[str, Float[Tensor, "n d"]]]:
        """The name of each ablation, and the rows that replace `y`.

        "zero" writes zeros, "mean" the mean over the evaluation set, "resample" the rows of
        `others`: activations at the same positions of another sequence.
        """
        rows = (torch.zeros_like(y), self.mean.to(y).expand_as(y), others.to(y))
        return zip(ABLATIONS, rows, strict=True)


def donors(n_sequences: int, seed: int) -> Int[Tensor, " sequence"]:
    """The index of the sequence whose activations replace those of each, in resample ablation.

    A cyclic shift by an amount drawn from `seed`: no sequence gets its own activations (unless it
    is the only one), and the pairing does not depend on batch size or dictionaries.
    """
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, max(n_sequences, 2), (), generator=generator))
    return (torch.arange(n_sequences) + shift) % n_sequences


class RunningMean:
    """The mean of rows at a target that arrive in batches, in float64, with and without massive
    rows (`core.massive`)."""

    def __init__(self) -> None:
        self._n, self._total = [0, 0], [torch.zeros(()), torch.zeros(())]

    def add_(self, y: Float[Tensor, "n d"], massive: Bool[Tensor, " n"]) -> None:
        """Update with the rows of one batch."""
        for which, rows in enumerate((y, y[massive])):
            self._n[which] += len(rows)
            self._total[which] = self._total[which] + rows.to("cpu", torch.float64).sum(dim=0)

    def reference(self) -> Reference:
        """The means so far; zero without any row."""
        (n, n_massive), (total, far) = self._n, self._total
        return Reference(total / max(n, 1), (total - far) / max(n - n_massive, 1))
