"""Reference points below which no estimate should fall: what replaces a target when it is cut."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ABLATIONS = ("zero", "mean", "resample")
"""What may take the place of a target, by the names that `Reference.ablations` gives them."""


@dataclass(frozen=True)
class Reference:
    """What the whole evaluation set says about one target: its mean over counted rows."""

    mean: Float[Tensor, " d"]

    def ablations(
        self, y: Float[Tensor, "n d"], others: Float[Tensor, "n d"]
    ) -> Iterator[tuple[str, Float[Tensor, "n d"]]]:
        """The name of each ablation, and the rows that take the place of `y`.

        "zero" writes zeros, "mean" the mean over the evaluation set, "resample" the
        activations of `others`: real ones, but of the same position in another sequence.
        """
        rows = (torch.zeros_like(y), self.mean.to(y).expand_as(y), others.to(y))
        return zip(ABLATIONS, rows, strict=True)


def donors(n_sequences: int, seed: int) -> Int[Tensor, " sequence"]:
    """For each sequence the one whose activations it gets under resample ablation.

    A shift by an amount drawn from `seed`: no sequence gets its own (unless it is alone), each
    gives once, and neither the batch size nor the dictionaries in company matter.
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
        """Take in aligned rows at several hooks."""
        self._n += len(next(iter(rows.values())))
        for hook, y in rows.items():
            total = y.to("cpu", torch.float64).sum(dim=0)
            self._totals[hook] = self._totals.get(hook, 0.0) + total

    def means(self) -> dict[str, Float[Tensor, " d"]]:
        """The mean at every hook."""
        return {hook: t / max(self._n, 1) for hook, t in self._totals.items()}
