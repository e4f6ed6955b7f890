"""Reference points below which no estimate should fall: what replaces a target when it is cut."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """What the whole evaluation set says about one target: its mean over counted rows."""

    mean: Float[Tensor, " d"]

    def ablations(
        self, y: Float[Tensor, "n d"], generator: torch.Generator
    ) -> Iterator[tuple[str, Float[Tensor, "n d"]]]:
        """The name of each ablation, and the rows that take the place of `y`.

        "zero" writes zeros, "mean" the mean over the evaluation set, "resample" the rows of
        the same batch in another order, so that each row is real but belongs to another token.
        """
        yield "zero", torch.zeros_like(y)
        yield "mean", self.mean.to(y).expand_as(y)
        yield "resample", y[torch.randperm(len(y), generator=generator).to(y.device)]


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

    def references(self) -> dict[str, Reference]:
        """The reference of every hook."""
        return {hook: Reference(t / max(self._n, 1)) for hook, t in self._totals.items()}
