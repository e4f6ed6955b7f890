"""Scores of tokens that may detect a concept, and the best detectors of each family."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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


@dataclass
class Best:
    """The largest value so far, and the candidate that has it."""

    value: float = -inf
    candidate: int = -1
    threshold: float = nan
    """Smallest score of the tokens that are predicted positive, where the value is an F1."""

    def update_(self, values: Float[Tensor, " candidate"], first: int) -> int | None:
        """Update with the values of candidates from `first` on; the index of a new best in them."""
        index = int(values.argmax())
        if values[index] <= self.value:
            return None
        self.value, self.candidate = float(values[index]), first + index
        return index


@dataclass
class Choice:
    """The best candidates of one family for one concept, by each measure."""

    average_precision: Best = field(default_factory=Best)
    f1: Best = field(default_factory=Best)
    precision: dict[float, Best] = field(default_factory=dict)
    """By recall: the candidate with the largest precision at it."""


def choose(
    candidates: Detectors,
    labels: Bool[Tensor, "concept n"],
    recalls: Sequence[Sequence[float]] | None = None,
) -> list[Choice]:
    """The best candidates for each concept, at the recalls given for that concept."""
    wanted = recalls if recalls is not None else [()] * len(labels)
    choices = [Choice(precision={recall: Best() for recall in some}) for some in wanted]
    for first, ranking in candidates.rankings():
        for choice, of_concept in zip(choices, labels, strict=True):
            curves = ranking.against(of_concept)
            choice.average_precision.update_(curves.average_precision(), first)
            index = choice.f1.update_(curves.best_f1(), first)
            if index is not None:
                choice.f1.threshold = curves.best_f1_threshold(index)
            for recall, best in choice.precision.items():
                best.update_(curves.precision_at(recall), first)
    return choices
