"""Sums per sequence: what metrics are pooled from, now or later under a bootstrap."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.records import Metric
from dictlearn.metrics.pooled import SUMS, pooled_metrics


class SequenceSums:
    """The sums of `metrics.pooled.SUMS` for every sequence, and each feature's firings."""

    def __init__(self, n_sequences: int, n_features: int) -> None:
        self.sums = {name: torch.zeros(n_sequences, dtype=torch.float64) for name in SUMS}
        self._firings = torch.zeros(n_features, dtype=torch.long)

    def add_(self, name: str, sequences: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> None:
        """Add one value per row to the sum `name` of the sequence that owns the row."""
        self.sums[name].index_add_(0, sequences.cpu(), values.to("cpu", torch.float64))

    def add_firings_(self, counts: Int[Tensor, " feature"]) -> None:
        """Count rows in which each feature was active."""
        self._firings += counts.cpu()

    def density(self) -> Float[Tensor, " feature"]:
        """Fraction of rows in which each feature was active."""
        return (self._firings / self.sums["rows"].sum().clamp_min(1)).float()

    def metrics(self) -> dict[str, Metric]:
        """Every metric, from the totals over all sequences."""
        totals = {name: values.sum() for name, values in self.sums.items()}
        return pooled_metrics(totals, self.density())
