"""Scores of tokens that may detect a concept, and the best of each family."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan

from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.precision import Ranking

_SCORES_AT_ONCE = 1 << 22


class Detectors(ABC):
    """A family of `width` scores with both signs: candidate i + width is candidate i negated."""

    width: int

    @abstractmethod
    def rankings(self) -> Iterator[tuple[int, Ranking]]:
        """Rankings of the tokens by all candidates in blocks, with the index of the first."""

    @abstractmethod
    def scores(self, candidate: int) -> Float[Tensor, " n"]:
        """The score of each token."""

    def signed(self, candidate: int) -> tuple[int, int]:
        """The index of the score without its sign, and the sign."""
        return candidate % self.width, 1 if candidate < self.width else -1


class FeatureDetectors(Detectors):
    """The positive and the negative parts of the coefficients of a dictionary."""

    def __init__(self, acts: SparseActs) -> None:
        self.width = acts.n_features
        indices = acts.indices + self.width * (acts.values < 0)
        split = SparseActs(acts.offsets, indices, acts.values.abs(), 2 * self.width)
        self._acts = split.where(split.values > 0)

    def rankings(self) -> Iterator[tuple[int, Ranking]]:
        yield 0, Ranking.from_sparse(self._acts)

    def scores(self, candidate: int) -> Float[Tensor, " n"]:
        of_it = self._acts.indices == candidate
        dense = self._acts.values.new_zeros(len(self._acts))
        dense[self._acts.rows()[of_it]] = self._acts.values[of_it]
        return dense


class DirectionDetectors(Detectors):
    """Dense scores, such as projections onto directions, and their negatives."""

    def __init__(self, columns: Float[Tensor, "n d"]) -> None:
        self.width = columns.shape[1]
        self._columns = columns

    def rankings(self) -> Iterator[tuple[int, Ranking]]:
        at_once = max(1, _SCORES_AT_ONCE // len(self._columns))
        for negative in (False, True):
            for first in range(0, self.width, at_once):
                some = self._columns[:, first : first + at_once]
                ranking = Ranking.from_dense(-some if negative else some)
                yield first + negative * self.width, ranking

    def scores(self, candidate: int) -> Float[Tensor, " n"]:
        column, sign = self.signed(candidate)
        return sign * self._columns[:, column]


@dataclass(frozen=True)
class Choice:
    """The candidate of a family with the largest average precision for one concept."""

    average_precision: float = -inf
    candidate: int = -1
    threshold: float = nan
    """The smallest score of the tokens that are predicted positive: that with the best F1."""


def choose(candidates: Detectors, labels: Bool[Tensor, "concept n"]) -> list[Choice]:
    """The best candidate for each concept."""
    choices = [Choice()] * len(labels)
    for first, ranking in candidates.rankings():
        for i, of_concept in enumerate(labels):
            curves = ranking.against(of_concept)
            value, index = curves.average_precision().max(dim=0)
            if value > choices[i].average_precision:
                threshold = curves.best_f1_threshold(int(index))
                choices[i] = Choice(float(value), first + int(index), threshold)
    return choices
