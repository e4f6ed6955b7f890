"""The top contexts of every feature, from one pass, without a matrix of tokens by features."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from dictlearn.core.sparse_acts import SparseActs

_OFF = -2  # the run of a position outside the block; a position that is not evaluated has -1


@dataclass(frozen=True)
class Windows:
    """Windows of tokens around every position of a batch of sequences.

    A window ends where its sequence does, and at positions that are not evaluated: it lies within
    one document if sequences hold whole documents.
    """

    first: int
    """Index of the first position of the batch, along all sequences."""
    context: int
    index: Int[np.ndarray, " n"]
    """Index of the position of each evaluated row, along the batch."""
    rows: Int[np.ndarray, "position offset"]
    """Evaluated row at each offset from a position, or -1 outside the window."""
    keys: Int[np.ndarray, " position"]
    """64-bit hash of the tokens in each window."""

    @classmethod
    def of(
        cls,
        ids: Int[Tensor, "b pos"],
        counted: Bool[Tensor, "b pos"],
        window: tuple[int, int],
        first: int,
    ) -> "Windows":
        """Windows of `window` tokens before and after each position."""
        width = sum(window) + 1
        runs = torch.where(counted, (~counted).cumsum(dim=1), -1)
        row = torch.where(counted, counted.flatten().cumsum(0).view_as(ids) - 1, -1)
        inside = pad(runs, window, value=_OFF).unfold(1, width, 1) == runs.unsqueeze(2)
        tokens = pad(ids, window).unfold(1, width, 1) + 1
        rows = torch.where(inside, pad(row, window, value=-1).unfold(1, width, 1), -1)
        multipliers = torch.from_numpy(_odd_numbers(width))
        keys = (torch.where(inside, tokens, 0) * multipliers).sum(dim=2)
        index = counted.flatten().nonzero()[:, 0]
        return cls(first, ids.shape[1], index.numpy(), rows.flatten(0, 1).numpy(),
                   keys.flatten().numpy())  # fmt: skip


@dataclass(frozen=True)
class _Peaks:
    """The positions at which features are most active in a sequence, with their windows."""

    feature: Int[np.ndarray, " m"]
    value: Float[np.ndarray, " m"]
    position: Int[np.ndarray, " m"]
    key: Int[np.ndarray, " m"]
    window: Float[np.ndarray, "m offset"]

    def __getitem__(self, which: np.ndarray) -> "_Peaks":
        return _Peaks(*(getattr(self, f.name)[which] for f in fields(self)))

    def joined(self, other: "_Peaks") -> "_Peaks":
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return _Peaks(*(np.concatenate(pair) for pair in pairs))

    def best(self, n: int) -> "_Peaks":
        """The `n` strongest of each feature, in order; windows with equal tokens count once."""
        peaks = self[np.lexsort((self.position, self.key, -self.value, self.feature))]
        by_key = np.lexsort((peaks.key, peaks.feature))  # stable: the strongest stays first
        distinct = np.zeros(len(by_key), dtype=bool)
        distinct[by_key] = _first_of(peaks.feature[by_key], peaks.key[by_key])
        peaks = peaks[distinct]
        count = np.arange(len(peaks.feature))
        begins = np.where(_first_of(peaks.feature), count, 0)
        return peaks[count - np.maximum.accumulate(begins) < n]


class TopContexts:
    """The top contexts of the features of one dictionary, each from another sequence.

    The peak of a sequence is the position at which the feature is most active, if its coefficient
    is positive there. Ties are broken by the hash of the window, so the result does not depend on
    the order of batches.
    """

    def __init__(
        self,
        n_features: int,
        n_contexts: int,
        window: tuple[int, int],
        features: Sequence[int] | None = None,
    ) -> None:
        self.firings = torch.zeros(n_features, dtype=torch.long)
        """Number of evaluated rows in which each feature is active."""
        self.n_rows = 0
        self._n = n_contexts
        self._floor = np.zeros(n_features, dtype=np.float32)
        """Smallest coefficient with which a peak is among the strongest, for each feature."""
        if features is not None:
            self._floor[:] = np.inf
            self._floor[list(features)] = 0
        none = np.zeros(0, dtype=np.int64)
        offsets = np.zeros((0, sum(window) + 1), dtype=np.float32)
        self._kept = _Peaks(none, np.zeros(0, dtype=np.float32), none, none, offsets)

    def add_(self, acts: SparseActs, windows: Windows) -> None:
        """Update with the coefficients of the evaluated rows of a batch."""
        self.firings += acts.firing_counts().cpu()
        self.n_rows += len(acts)
        row, feature = acts.rows().cpu().numpy(), acts.indices.cpu().numpy()
        value = acts.values.detach().float().cpu().numpy()
        strong = np.flatnonzero((value > 0) & (value >= self._floor[feature]))
        position = windows.index[row[strong]]
        sequence = position // windows.context
        order = np.lexsort((windows.keys[position], -value[strong], sequence, feature[strong]))
        strong, sequence = strong[order], sequence[order]
        peak = strong[_first_of(feature[strong], sequence)]
        if not len(peak):
            return
        position = windows.index[row[peak]]
        found = _at(row, feature, value, windows.rows[position], feature[peak])
        self._merge(
            _Peaks(
                feature[peak], value[peak], windows.first + position, windows.keys[position], found
            )
        )

    def _merge(self, peaks: _Peaks) -> None:
        touched = np.zeros(len(self._floor), dtype=bool)
        touched[peaks.feature] = True
        changes = touched[self._kept.feature]
        best = self._kept[changes].joined(peaks).best(self._n)
        last = np.flatnonzero(np.bincount(best.feature, minlength=len(touched)) == self._n)
        ends = np.searchsorted(best.feature, last, side="right") - 1
        self._floor[last] = best.value[ends]
        self._kept = self._kept[~changes].joined(best)

    def of(self, feature: int) -> list[tuple[int, list[float]]]:
        """Index along all sequences, and window, of each peak of a feature, the strongest first."""
        mine = self._kept[self._kept.feature == feature]
        return list(zip(mine.position.tolist(), mine.window.tolist(), strict=True))


def _at(
    row: Int[np.ndarray, " nnz"],
    feature: Int[np.ndarray, " nnz"],
    value: Float[np.ndarray, " nnz"],
    rows: Int[np.ndarray, "m offset"],
    features: Int[np.ndarray, " m"],
) -> Float[np.ndarray, "m offset"]:
    """The coefficients of `features` at `rows`; 0 where inactive, or where the row is -1."""
    n_features = int(feature.max()) + 1
    wanted = np.zeros(n_features, dtype=bool)
    wanted[features] = True
    mine = wanted[feature]
    entries = row[mine] * n_features + feature[mine]
    order = np.argsort(entries)
    entries, value = entries[order], value[mine][order]
    asked = rows * n_features + features[:, None]
    at = np.minimum(np.searchsorted(entries, asked), len(entries) - 1)
    return np.where((entries[at] == asked) & (rows >= 0), value[at], 0).astype(np.float32)


def _first_of(*keys: np.ndarray) -> np.ndarray:
    """A mask of the rows of sorted keys that differ from the row before."""
    first = np.ones(len(keys[0]), dtype=bool)
    first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return first


def _odd_numbers(n: int) -> np.ndarray:
    """Fixed odd 64-bit numbers without pattern."""
    numbers = np.random.default_rng(0).integers(-(1 << 63), (1 << 63) - 1, n, dtype=np.int64)
    return numbers | 1
