"""Coefficients as messages: what their tables count, and the length of each sequence's message."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.metric import Metric
from dictlearn.core.quantized import Quantized
from dictlearn.core.sites import Site
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.evaluation.faithfulness.clean_passes import CleanBatch, CleanPasses
from dictlearn.evaluation.faithfulness.estimate_sums import EstimateSums
from dictlearn.metrics.bits import (
    QUANTIZED,
    SupportCode,
    bits_unseen,
    level_code,
    numbers_active,
    support_code,
)

Sums = dict[str, Float[Tensor, " sequence"]]
N_PARTS = 16
"""Parts of the text that are left out in turn to estimate the bias of tables fitted to it."""


@dataclass(frozen=True)
class Message:
    """The message of a row of results: the cost of its coefficients, and its sums.

    The sums are `support_bits` and `bits` of each sequence, and those of the dictionary with
    quantized coefficients, under the names in `metrics.bits.QUANTIZED`; absent if not measured.
    """

    cost: Metric
    sums: Sums


class Usage:
    """How often features and numbers of active features occur, and the size of contributions.

    Counts are kept apart for every `N_PARTS`-th sequence, by which `bits_unseen` is estimated.
    """

    def __init__(self, dictionary: FeatureDictionary) -> None:
        n_features, n_groups = dictionary.n_features, dictionary.traits.n_groups
        width = n_features // n_groups + 1
        self._firings = torch.zeros(N_PARTS, n_features, dtype=torch.long)
        self._numbers = torch.zeros(N_PARTS, n_groups, width, dtype=torch.long)
        self._norms = torch.linalg.vector_norm(dictionary.atoms.detach(), dim=1)
        self._squares = 0.0

    def add_(self, acts: SparseActs, sequences: Int[Tensor, " n"]) -> None:
        """Count the coefficients of further rows, given the sequence of each."""
        parts = (sequences % N_PARTS).to(acts.indices.device)
        self._firings += _counts(parts[acts.rows()] * acts.n_features + acts.indices, self._firings)
        _, n_groups, width = self._numbers.shape
        numbers = numbers_active(acts, n_groups)
        groups = n_groups * parts[:, None] + torch.arange(n_groups, device=parts.device)
        self._numbers += _counts((groups * width + numbers).flatten(), self._numbers)
        contributions = acts.values.double() * self._norms[acts.indices].double()
        self._squares += contributions.square().sum().item()

    @property
    def mean_square(self) -> float:
        """The mean of `(a_j ||atom_j||)^2` over active coefficients, in raw units; 0 if none is."""
        return self._squares / max(int(self.firings.sum()), 1)

    @property
    def firings(self) -> Int[Tensor, " feature"]:
        """The number of rows on which each feature is active."""
        return self._firings.sum(dim=0)

    @property
    def code(self) -> SupportCode:
        """The code for the sets of active features, as long as for other text of this kind."""
        code = support_code(self.firings, self._numbers.sum(dim=0))
        return code.longer(bits_unseen(self._firings, self._numbers))

    @property
    def support_bits(self) -> float:
        """The bits per token that say which features are active."""
        return self.code.mean(self.firings, self._numbers.sum(dim=0))


def _counts(places: Int[Tensor, " _"], table: Int[Tensor, "*_"]) -> Int[Tensor, "*_"]:
    """How often each place of a table occurs, in its shape, on the CPU."""
    return places.bincount(minlength=table.numel()).cpu().view_as(table)


class SupportLengths:
    """The bits of each sequence that say which features are active, by row of results."""

    def __init__(self, codes: Mapping[str, SupportCode], n_sequences: int) -> None:
        self._codes = codes
        self.bits = {row: torch.zeros(n_sequences, dtype=torch.float64) for row in codes}

    def add_(self, batch: CleanBatch, acts: Mapping[str, SparseActs]) -> None:
        """Add the rows of a batch, whose coefficients are given by row of results."""
        owners = batch.row_sequences.cpu()
        for row, own in acts.items():
            self.bits[row].index_add_(0, owners, self._codes[row].lengths(own).cpu())


class LevelCounts:
    """How often each level occurs in each sequence."""

    def __init__(self) -> None:
        self._owners: list[Tensor] = []
        self._levels: list[Tensor] = []
        self._counts: list[Tensor] = []

    def add_(self, levels: Int[Tensor, " m"], sequences: Int[Tensor, " m"]) -> None:
        """Count levels, given the sequence of each."""
        if not len(levels):
            return
        lowest = levels.min()
        n_levels = levels.max() - lowest + 1
        pairs, counts = (sequences * n_levels + levels - lowest).unique(return_counts=True)
        self._owners.append((pairs // n_levels).cpu())
        self._levels.append((pairs % n_levels + lowest).cpu())
        self._counts.append(counts.cpu())

    def bits(self, n_sequences: int) -> Float[Tensor, " sequence"]:
        """The bits of the levels of each sequence, by the frequencies of levels in all."""
        bits = torch.zeros(n_sequences, dtype=torch.float64)
        if not self._counts:
            return bits
        owners, counts = torch.cat(self._owners), torch.cat(self._counts)
        levels, where = torch.cat(self._levels).unique(return_inverse=True)
        table = counts.new_zeros(len(levels)).index_add_(0, where, counts)
        return bits.index_add_(0, owners, counts * level_code(table)[where])


class QuantizedSums:
    """The sums of a quantized dictionary and the lengths of its messages, in a pass."""

    def __init__(
        self,
        name: str,
        quantized: Quantized,
        targets: Mapping[str, Site],
        codes: Mapping[str, SupportCode],
        passes: CleanPasses,
    ) -> None:
        self.quantized = quantized
        self._n, self._n_rows = len(passes.ids), int(passes.counted.sum())
        self.estimates = EstimateSums(name, quantized, targets, passes)
        self._supports = SupportLengths({row: codes[row] for row in targets}, self._n)
        self._levels = {row: LevelCounts() for row in targets}

    def add_(
        self, batch: CleanBatch, typical: Mapping[Site, Bool[Tensor, " n"]]
    ) -> dict[str, Float[Tensor, "m d_row"]]:
        """Add a batch; returns the unembedding inputs with the estimate spliced in, by row."""
        acts = batch.encode(self.quantized)
        by_row = self.estimates.acts_of(acts)
        self._supports.add_(batch, by_row)
        for row, own in by_row.items():
            owners = batch.row_sequences.to(own.values.device)[own.rows()]
            self._levels[row].add_(self.quantized.levels(own), owners)
        return self.estimates.add_(batch, acts, typical)

    def messages(self) -> dict[str, Message]:
        """The message of every row of results."""
        return {row: self._message(row) for row in self._levels}

    def _message(self, row: str) -> Message:
        support, levels = self._supports.bits[row], self._levels[row].bits(self._n)
        quantized = {new: self.estimates.sums[row][name] for name, new in QUANTIZED.items()}
        lengths = {"support_bits": support, "bits": support + levels}
        return Message(Metric(levels.sum().item() / self._n_rows), lengths | quantized)
