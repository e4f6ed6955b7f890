"""Zero, mean and resample ablation of a target: the reference points of loss recovered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ABLATIONS = ("zero", "mean", "resample")
"""The names of the ablations, in the order of `Reference.ablations`."""


@dataclass(frozen=True)
class Reference:
    """The mean activation at one target, over the counted rows of the whole evaluation set."""

    mean: Float[Tensor, " d"]

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
    """The mean of rows that arrive in batches, in float64, per hook."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._n = 0

    def add_(self, rows: Mapping[str, Float[Tensor, "n _"]]) -> None:
        """Update with aligned rows at several hooks."""
        self._n += len(next(iter(rows.values())))
        for hook, y in rows.items():
            total = y.to("cpu", torch.float64).sum(dim=0)
            self._totals[hook] = self._totals.get(hook, 0.0) + total

    def means(self) -> dict[str, Float[Tensor, " d"]]:
        """The mean at every hook."""
        return {hook: t / max(self._n, 1) for hook, t in self._totals.items()}
