"""Pearson correlations, over tokens, of the features of different dictionaries."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.evaluation.stream.activations import ActivationStream, on_cpu
from dictlearn.lm.hooks import LanguageModel

LARGEST_PAIR = 1 << 31
"""Most pairs of features of two dictionaries that are correlated: 16 passes."""
_PASS = 1 << 27
"""Products summed in one pass over the tokens, at most: 1 GB in float64."""
_BLOCK = 1 << 25
_TOKENS_AT_ONCE = 1 << 12
_ROUNDING = 1e-12
"""Largest variance, relative to the mean square, of a feature that counts as constant."""


@dataclass(frozen=True)
class Block:
    """Consecutive features of dictionary `first`, to be correlated with all of `second`."""

    first: str
    second: str
    start: int
    stop: int


class Moments:
    """Sums over tokens of each feature's coefficients, in float64."""

    def __init__(self, n_features: int) -> None:
        self.n = 0
        self.total = torch.zeros(n_features, dtype=torch.float64)
        self.squares = torch.zeros(n_features, dtype=torch.float64)
        self.firings = torch.zeros(n_features, dtype=torch.long)

    def add_(self, acts: SparseActs) -> None:
        """Add the coefficients of some tokens."""
        values = acts.values.double()
        self.n += len(acts)
        self.total.index_add_(0, acts.indices, values)
        self.squares.index_add_(0, acts.indices, values.square())
        self.firings += acts.firing_counts()

    @property
    def density(self) -> Float[Tensor, " feature"]:
        """Fraction of tokens in which each feature is active."""
        return (self.firings / max(self.n, 1)).float()

    @property
    def spread(self) -> Float[Tensor, " feature"]:
        """`sqrt(n sum a^2 - (sum a)^2)`; 0 for a feature that is constant."""
        squares = self.n * self.squares
        variance = squares - self.total.square()
        return variance.where(variance > _ROUNDING * squares, 0).sqrt()


@dataclass(frozen=True)
class Correlated:
    """Moments of every feature, and its largest correlation with each other dictionary."""

    moments: Mapping[str, Moments]
    largest: Mapping[tuple[str, str], Float[Tensor, " live"]]
    """Largest correlation of each live feature of the first dictionary with a live feature of
    the second; without pairs above `LARGEST_PAIR`."""
    partners: Mapping[tuple[str, str], Int[Tensor, " live"]]
    """The feature of the second dictionary that has it."""


@dataclass(frozen=True)
class _Largest:
    """The largest correlation of each feature so far, and the feature that it is with."""

    values: Float[Tensor, " feature"]
    partners: Int[Tensor, " feature"]

    @classmethod
    def none(cls, n_features: int) -> "_Largest":
        """Nothing compared yet."""
        values = torch.full((n_features,), -inf, dtype=torch.float64)
        return cls(values, torch.zeros(n_features, dtype=torch.long))

    def raise_(
        self, at: slice, values: Float[Tensor, " some"], partners: Int[Tensor, " some"]
    ) -> None:
        """Take the larger values, with their partners, in place of those of the features `at`."""
        better = values > self.values[at]
        self.values[at] = values.where(better, self.values[at])
        self.partners[at] = partners.where(better, self.partners[at])


class Correlations:
    """The largest Pearson correlation of each feature with those of every other dictionary.

    Products of coefficients are summed over the tokens, as many as fit in memory at a time, so
    there are as many passes as that takes, and no pass keeps more than a batch of coefficients.
    """

    def __init__(
        self,
        dictionaries: Mapping[str, FeatureDictionary],
        model: LanguageModel,
        ids: Int[Tensor, "sequence pos"],
        counted: Bool[Tensor, "sequence pos"],
        pairs: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        self._dictionaries = {name: d for name, d in dictionaries.items() if d.n_features}
        self._moments = {name: Moments(d.n_features) for name, d in self._dictionaries.items()}
        widths = {name: d.n_features for name, d in self._dictionaries.items()}
        self._passes = passes(widths, pairs)
        widest = max(widths.values(), default=1)
        at_once = max(1, min(_TOKENS_AT_ONCE, _BLOCK // widest) // ids.shape[1])
        hooks = [hook for d in self._dictionaries.values() for hook in d.sites.source.hooks]
        self._stream = ActivationStream(model, ids, counted, hooks, at_once)

    @property
    def n_batches(self) -> int:
        """Batches in all passes."""
        return len(self._passes) * len(self._stream.parts)

    @torch.no_grad()
    def run(self, done: Callable[[int], None]) -> Correlated:
        """Read all tokens, calling `done` with the number of batches so far."""
        largest: dict[tuple[str, str], _Largest] = {}
        n_done = 0
        for number, blocks in enumerate(self._passes):
            widths = [self._dictionaries[block.second].n_features for block in blocks]
            sums = [
                torch.zeros(block.stop - block.start, width, dtype=torch.float64)
                for block, width in zip(blocks, widths, strict=True)
            ]
            used = self._used(blocks, every=number == 0)
            with self._stream.batches() as batches:
                for batch in batches:
                    acts = {name: on_cpu(batch.encode(d)) for name, d in used.items()}
                    if number == 0:
                        for name, some in acts.items():
                            self._moments[name].add_(some)
                    _add_products(blocks, sums, acts)
                    n_done += 1
                    done(n_done)
            for block in reversed(blocks):
                self._keep_largest(block, sums.pop(), largest)
        live = {key: self._moments[key[0]].spread > 0 for key in largest}
        return Correlated(
            self._moments,
            {key: found.values[live[key]] for key, found in largest.items()},
            {key: found.partners[live[key]] for key, found in largest.items()},
        )

    def _used(self, blocks: Sequence[Block], *, every: bool) -> dict[str, FeatureDictionary]:
        """The dictionaries in `blocks`, or all."""
        used = {name for block in blocks for name in (block.first, block.second)}
        return {name: d for name, d in self._dictionaries.items() if every or name in used}

    def _keep_largest(
        self,
        block: Block,
        sums: Float[Tensor, "some other"],
        largest: dict[tuple[str, str], _Largest],
    ) -> None:
        """Turn sums of products into correlations, in place, and keep the largest both ways."""
        first, second = self._moments[block.first], self._moments[block.second]
        own = slice(block.start, block.stop)
        spread = first.spread[own]
        sums *= first.n
        sums.addr_(first.total[own], second.total, alpha=-1)
        sums.div_(spread.unsqueeze(1)).div_(second.spread)
        sums[spread == 0] = -inf
        sums[:, second.spread == 0] = -inf
        for key, n, dim, at in (
            ((block.first, block.second), first.total.numel(), 1, own),
            ((block.second, block.first), second.total.numel(), 0, slice(None)),
        ):
            values, partners = sums.max(dim=dim)
            kept = largest.setdefault(key, _Largest.none(n))
            kept.raise_(at, values.clamp(max=1), partners + (0 if dim else block.start))


def passes(
    widths: Mapping[str, int], pairs: Iterable[tuple[str, str]] | None = None
) -> list[list[Block]]:
    """Blocks of features to correlate, grouped by pass over the tokens; at least one pass.

    All pairs of dictionaries are correlated, or only `pairs`, of which those that are not in
    `widths` are left out.

    >>> [[(b.first, b.second, b.stop) for b in some] for some in passes({"a": 8, "b": 4})]
    [[('a', 'b', 8)]]
    """
    found: list[list[Block]] = [[]]
    room = _PASS
    for first, second in combinations(widths, 2) if pairs is None else pairs:
        if not {first, second} <= widths.keys() or widths[first] * widths[second] > LARGEST_PAIR:
            continue
        step = max(1, _BLOCK // widths[second])
        for start in range(0, widths[first], step):
            stop = min(start + step, widths[first])
            size = (stop - start) * widths[second]
            if size > room and found[-1]:
                found.append([])
                room = _PASS
            found[-1].append(Block(first, second, start, stop))
            room -= size
    return found


def _add_products(
    blocks: Sequence[Block],
    sums: Sequence[Float[Tensor, "_ _"]],
    acts: Mapping[str, SparseActs],
) -> None:
    """Add to each block the products of its coefficients, summed over the tokens of a batch."""
    second, dense = "", torch.empty(0, 0)
    for block, total in zip(blocks, sums, strict=True):
        if block.second != second:
            second, dense = block.second, acts[block.second].to_dense().double()
        total += _transposed(acts[block.first], block).matmul(dense)


def _transposed(acts: SparseActs, block: Block) -> SparseActs:
    """The coefficients of the features of `block` transposed: one row for each feature."""
    keep = (acts.indices >= block.start) & (acts.indices < block.stop)
    features, tokens = acts.indices[keep] - block.start, acts.rows()[keep]
    order = features.argsort(stable=True)
    counts = torch.bincount(features, minlength=block.stop - block.start)
    values = acts.values[keep][order].double()
    return SparseActs.from_counts(counts, tokens[order], values, len(acts))
