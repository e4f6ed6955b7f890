"""Sparse coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class SparseActs:
    """Coefficients of `n` rows as compressed sparse rows.

    Row `i` owns the entries `offsets[i]:offsets[i + 1]` of `indices` (which feature) and
    `values` (its coefficient). Features of one row are distinct; their order has no meaning.
    """

    offsets: Int[Tensor, " n_plus_1"]
    indices: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    n_features: int

    @classmethod
    def from_dense(cls, acts: Float[Tensor, "n feature"]) -> "SparseActs":
        """The non-zero entries of `acts`."""
        rows, indices = (acts != 0).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=acts.shape[0])
        return cls.from_counts(counts, indices, acts[rows, indices], acts.shape[1])

    @classmethod
    def from_counts(
        cls,
        counts: Int[Tensor, " n"],
        indices: Int[Tensor, " nnz"],
        values: Float[Tensor, " nnz"],
        n_features: int,
    ) -> "SparseActs":
        """Entries sorted by row, with `counts[i]` entries in row `i`."""
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(offsets, indices, values, n_features)

    @classmethod
    def from_top(
        cls, values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], n_features: int
    ) -> "SparseActs":
        """At most k entries per row, as returned by `torch.topk`; zeros are dropped."""
        keep = values != 0
        return cls.from_counts(keep.sum(dim=1), indices[keep], values[keep], n_features)

    @classmethod
    def from_entries(
        cls,
        rows: Int[Tensor, " nnz"],
        indices: Int[Tensor, " nnz"],
        values: Float[Tensor, " nnz"],
        n: int,
        n_features: int,
    ) -> "SparseActs":
        """Entries in any order, of `n` rows; those of one place are added, and zeros dropped."""
        places, entry = torch.unique(rows * n_features + indices, return_inverse=True)
        sums = values.new_zeros(len(places)).index_add_(0, entry, values)
        kept = sums != 0
        counts = torch.bincount(places[kept] // n_features, minlength=n)
        return cls.from_counts(counts, places[kept] % n_features, sums[kept], n_features)

    @classmethod
    def concatenated(cls, parts: Sequence["SparseActs"], n_features: int) -> "SparseActs":
        """The rows of all `parts`, one after the other."""
        if len(parts) == 1:
            return parts[0]
        counts = torch.cat([part.l0() for part in parts])
        indices = torch.cat([part.indices for part in parts])
        return cls.from_counts(counts, indices, torch.cat([p.values for p in parts]), n_features)

    def where(self, keep: Bool[Tensor, " nnz"]) -> "SparseActs":
        """The entries where `keep` holds."""
        kept_before = torch.cat([self.offsets.new_zeros(1), keep.cumsum(0)])
        offsets = kept_before[self.offsets]
        return SparseActs(offsets, self.indices[keep], self.values[keep], self.n_features)

    def with_values(self, values: Float[Tensor, " nnz"]) -> "SparseActs":
        """The same pattern with other coefficients."""
        return SparseActs(self.offsets, self.indices, values, self.n_features)

    def select(self, rows: Int[Tensor, " m"]) -> "SparseActs":
        """These rows, in this order; a row may be taken several times."""
        counts = self.l0()[rows]
        first = (self.offsets[rows] - counts.cumsum(0) + counts).repeat_interleave(counts)
        entries = first + torch.arange(len(first), device=first.device)
        return SparseActs.from_counts(
            counts, self.indices[entries], self.values[entries], self.n_features
        )

    def columns(self, features: Int[Tensor, " m"]) -> Float[Tensor, "n m"]:
        """The coefficients of some features, as one dense tensor."""
        column = self.indices.new_full((self.n_features,), -1)
        column[features] = torch.arange(len(features), device=features.device)
        own = column[self.indices]
        asked = own >= 0
        dense = self.values.new_zeros(len(self), len(features))
        return dense.index_put((self.rows()[asked], own[asked]), self.values[asked])

    def with_columns(
        self, features: Int[Tensor, " m"], values: Float[Tensor, "n m"]
    ) -> "SparseActs":
        """The same with other coefficients of some features, which are distinct."""
        column = torch.zeros(self.n_features, dtype=torch.bool, device=features.device)
        column[features] = True
        kept = self.where(~column[self.indices])
        rows, which = (values != 0).nonzero(as_tuple=True)
        return SparseActs.from_entries(
            torch.cat([kept.rows(), rows]),
            torch.cat([kept.indices, features[which]]),
            torch.cat([kept.values, values[rows, which].to(kept.values)]),
            len(self),
            self.n_features,
        )

    def minus(self, other: "SparseActs") -> "SparseActs":
        """The difference of the coefficients, without the places where they are equal."""
        return SparseActs.from_entries(
            torch.cat([self.rows(), other.rows()]),
            torch.cat([self.indices, other.indices]),
            torch.cat([self.values, -other.values]),
            len(self),
            self.n_features,
        )

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    def l0(self) -> Int[Tensor, " n"]:
        """The number of active features in each row."""
        return self.offsets.diff()

    def rows(self) -> Int[Tensor, " nnz"]:
        """The row that owns each entry."""
        # With its size given, a GPU need not be waited for.
        return torch.repeat_interleave(self.l0(), output_size=len(self.indices))

    def row_sums(self, entries: Float[Tensor, " nnz"]) -> Float[Tensor, " n"]:
        """The sum of `entries` over each row."""
        return entries.new_zeros(len(self)).index_add_(0, self.rows(), entries)

    def firing_counts(self) -> Int[Tensor, " feature"]:
        """The number of rows in which each feature is active."""
        return torch.bincount(self.indices, minlength=self.n_features)

    def to_dense(self) -> Float[Tensor, "n feature"]:
        """The same coefficients as one dense tensor."""
        dense = self.values.new_zeros(len(self), self.n_features)
        dense[self.rows(), self.indices] = self.values
        return dense

    def matmul(self, atoms: Float[Tensor, "feature d_out"]) -> Float[Tensor, "n d_out"]:
        """`to_dense() @ atoms`, reading only the active rows of `atoms`."""
        return embedding_bag(
            self.indices, atoms, self.offsets[:-1], mode="sum", per_sample_weights=self.values
        )
