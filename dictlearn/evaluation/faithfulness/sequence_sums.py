"""Sums per sequence, from which metrics and their intervals are computed."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.metrics.pooled import SUMS


class SequenceSums:
    """The sums named in `metrics.pooled.SUMS` for every sequence, zero until added to."""

    def __init__(self, n_sequences: int) -> None:
        self._sums = {name: torch.zeros(n_sequences, dtype=torch.float64) for name in SUMS}

    def add_(self, sequences: Int[Tensor, " n"], values: Mapping[str, Float[Tensor, " n"]]) -> None:
        """Add values, one for each row, to the sums of these names of the row's sequence."""
        owners = sequences.cpu()
        for name, column in values.items():
            self._sums[name].index_add_(0, owners, column.to("cpu", torch.float64))

    def __getitem__(self, name: str) -> Float[Tensor, " sequence"]:
        return self._sums[name]

    def plus(self, other: "SequenceSums") -> dict[str, Float[Tensor, " sequence"]]:
        """These sums and those of `other` together, by name."""
        return {name: sums + other[name] for name, sums in self._sums.items()}
