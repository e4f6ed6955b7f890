"""The entries of sparse coefficients in order of their feature: what gradients of atoms read."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.kernels import compiled, gathering
from dictlearn.kernels.native import is_native, run


@dataclass(frozen=True)
class EntriesByFeature:
    """Feature `f` owns the places `starts[f]:starts[f + 1]` of `rows` and `entries`.

    In this order a sum over a feature's entries reads and writes its atom once, and no two
    threads write to one place.
    """

    starts: Int[Tensor, " feature_plus_1"]
    rows: Int[Tensor, " nnz"]
    """The row of each entry."""
    entries: Int[Tensor, " nnz"]
    """Its number in the order of rows."""

    def weighted_sums(
        self, weights: Float[Tensor, " nnz"], x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "feature d"]:
        """For each feature the sum over its entries of weight times row of `x`."""
        if not is_native(weights, x):
            sums = gathering.loops(weights, x).weighted_sums
            return sums(self.starts, self.rows, weights[self.entries], x)
        out = x.new_empty(len(self.starts) - 1, x.shape[1])
        run(compiled.weighted_sums, self.starts, self.rows, self.entries, weights,
            x.contiguous(), out)  # fmt: skip
        return out

    def dots(
        self, x: Float[Tensor, "n d"], atoms: Float[Tensor, "feature d"]
    ) -> Float[Tensor, " nnz"]:
        """For each entry (in row order) its row of `x` times its atom."""
        out = x.new_empty(len(self.entries))
        if is_native(x, atoms):
            run(compiled.dots, self.starts, self.rows, self.entries,
                x.contiguous(), atoms.contiguous(), out)  # fmt: skip
            return out
        # With its size given, a GPU need not be waited for.
        features = torch.repeat_interleave(self.starts.diff(), output_size=len(self.rows))
        out[self.entries] = gathering.loops(x, atoms).dots(self.rows, features, x, atoms)
        return out

    def dots_and_weighted_sums(
        self,
        weights: Float[Tensor, " nnz"],
        x: Float[Tensor, "n d"],
        atoms: Float[Tensor, "feature d"],
    ) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "feature d"]]:
        """`weighted_sums`, and for each entry (in row order) its row of `x` times its atom."""
        if not is_native(weights, x, atoms):
            return self.dots(x, atoms), self.weighted_sums(weights, x)
        dots, out = torch.empty_like(weights), torch.empty_like(atoms)
        run(compiled.dots_and_weighted_sums, self.starts, self.rows, self.entries, weights,
            x.contiguous(), atoms.contiguous(), dots, out)  # fmt: skip
        return dots, out


def by_feature(acts: SparseActs) -> EntriesByFeature:
    """The entries of `acts` in order of their feature, those of one feature in order of row."""
    if is_native(acts.values):
        starts = torch.zeros(acts.n_features + 1, dtype=torch.long)
        rows, entries = torch.empty_like(acts.indices), torch.empty_like(acts.indices)
        run(compiled.by_feature, acts.offsets, acts.indices, starts, rows, entries)
        return EntriesByFeature(starts, rows, entries)
    entries = acts.indices.argsort(stable=True)
    counts = acts.firing_counts()
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return EntriesByFeature(starts, acts.rows()[entries], entries)
