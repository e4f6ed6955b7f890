"""What may stand for a concept: features, neurons, directions. And which of them does it best."""

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
    """Each of `width` scores with both signs: candidate i, and candidate i + width its opposite."""

    width: int

    @abstractmethod
    def rankings(self) -> Iterator[tuple[int, Ranking]]:
        """All candidates, ranked some at a time, with the index of the first of them."""

    @abstractmethod
    def scores(self, candidate: int) -> Float[Tensor, " n"]:
        """What the candidate gives each token."""

    def signed(self, candidate: int) -> tuple[int, int]:
        """Which score the candidate is, and with which sign."""
        return candidate % self.width, 1 if candidate < self.width else -1


class FeatureDetectors(Detectors):
    """The coefficients of a dictionary, and what is negative of them: at rest, both are 0."""

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
    """Scores that every token has, and their negatives."""

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
    """The largest value met so far, and whose it is."""

    value: float = -inf
    candidate: int = -1
    threshold: float = nan
    """Of a best F1: the score from which on tokens are taken."""

    def update_(self, values: Float[Tensor, " candidate"], first: int) -> int | None:
        """Take in the values of candidates from `first` on; the place of a new best among them."""
        place = int(values.argmax())
        if values[place] <= self.value:
            return None
        self.value, self.candidate = float(values[place]), first + place
        return place


@dataclass
class Choice:
    """The candidates of one family that are best for one concept, each by another measure."""

    average_precision: Best = field(default_factory=Best)
    f1: Best = field(default_factory=Best)
    precision: dict[float, Best] = field(default_factory=dict)
    """By the recall at which precision is taken."""


def choose(
    candidates: Detectors,
    labels: Bool[Tensor, "concept n"],
    recalls: Sequence[Sequence[float]] | None = None,
) -> list[Choice]:
    """The best candidates for each concept, at the recalls wanted for that concept."""
    wanted = recalls if recalls is not None else [()] * len(labels)
    choices = [Choice(precision={recall: Best() for recall in some}) for some in wanted]
    for first, ranking in candidates.rankings():
        for choice, of_concept in zip(choices, labels, strict=True):
            curves = ranking.against(of_concept)
            choice.average_precision.update_(curves.average_precision(), first)
            place = choice.f1.update_(curves.best_f1(), first)
            if place is not None:
                choice.f1.threshold = curves.best_f1_threshold(place)
            for recall, best in choice.precision.items():
                best.update_(curves.precision_at(recall), first)
    return choices
