"""Precision of features and of their baselines, at the recall that the features have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.sites import Site
from dictlearn.evaluation.concepts.detectors import Best, Choice, Detectors, choose
from dictlearn.evaluation.concepts.split_halves import Half
from dictlearn.metrics.intervals import Interval, bootstrap_interval
from dictlearn.metrics.precision import Ranking, resampled_precision
from dictlearn.records.concepts import ConceptScore

FEATURES = "features"


def compare_families(
    choosing: Half,
    scoring: Half,
    names: Sequence[str],
    target: Site,
    concepts: Sequence[str],
    weights: Float[Tensor, "resample sequence"],
) -> list[ConceptScore]:
    """The scores of the dictionaries `names`, all with this target, and of baselines."""
    features = {name: choose(choosing.features[name], choosing.labels) for name in names}
    recalls = {
        name: [_use(choosing, i, choosing.features[name], c.f1).recall for i, c in enumerate(some)]
        for name, some in features.items()
    }
    wanted = [
        [recalls[name][i] for name in names if recalls[name][i]] for i in range(len(concepts))
    ]
    baselines = {
        family: choose(candidates, choosing.labels, wanted)
        for family, candidates in choosing.baselines[target].items()
    }
    scores = []
    for i, concept in enumerate(concepts):
        for name in names:
            choice, recall = features[name][i], recalls[name][i]
            candidates = scoring.features[name]
            use = _use(scoring, i, candidates, choice.f1)
            of_feature = candidates.scores(choice.f1.candidate)
            at = _Comparison(scoring, i, concept, name, use, of_feature, recall, weights)
            naive = _use(choosing, i, choosing.features[name], choice.f1).precision
            scores.append(at.of_feature(candidates, choice, naive))
            for family, choices in baselines.items():
                scores.append(at.of_baseline(family, scoring.baselines[target][family], choices[i]))
    return scores


@dataclass(frozen=True)
class _Use:
    """The predictions of a candidate with a threshold on the tokens of a half."""

    hits: Float[Tensor, " sequence"]
    taken: int
    n_matches: int

    @property
    def recall(self) -> float:
        return self.hits.sum().item() / self.n_matches

    @property
    def precision(self) -> float:
        return self.hits.sum().item() / self.taken if self.taken else nan

    @property
    def f1(self) -> float:
        return 2 * self.hits.sum().item() / (self.n_matches + self.taken)


def _use(half: Half, concept: int, candidates: Detectors, best: Best) -> _Use:
    """The predictions of the candidate: positive from its threshold on."""
    labels = half.labels[concept]
    taken = candidates.scores(best.candidate) >= best.threshold
    hits = torch.bincount(half.sequences[taken & labels], minlength=half.n_sequences)
    return _Use(hits.double(), int(taken.sum()), int(labels.sum()))


@dataclass(frozen=True)
class _Comparison:
    """One concept and one dictionary on the scored half, at the recall of its feature there.

    The precision of the feature is interpolated on its precision-recall curve like that of the
    baselines, so that none gains by the position of its threshold between two matches.
    """

    half: Half
    index: int
    concept: str
    dictionary: str
    feature: _Use
    feature_scores: Float[Tensor, " n"]
    naive_recall: float
    """Recall of the feature on the half that it was chosen on."""
    weights: Float[Tensor, "resample sequence"]

    def of_feature(self, candidates: Detectors, choice: Choice, naive: float) -> ConceptScore:
        """The score of the feature itself; `naive` is its precision on the half chosen on."""
        best = replace(choice.f1, value=naive)
        return self._score(FEATURES, candidates, choice, best, self._own, (nan, nan, nan))

    def of_baseline(self, family: str, candidates: Detectors, choice: Choice) -> ConceptScore:
        """The score of the baseline of one family that was best at the feature's recall."""
        unmatched = Best(nan, choice.average_precision.candidate)
        best = choice.precision.get(self.naive_recall, unmatched)
        own, other = self._own, self._at_recall(candidates.scores(best.candidate))
        advantage = self._interval(own[0] - other[0], own[1] - other[1])
        return self._score(family, candidates, choice, best, other, advantage)

    def _interval(self, value: float, resampled: Float[Tensor, " resample"]) -> Interval:
        return bootstrap_interval(value, resampled, self.weights.shape[1])

    @cached_property
    def _own(self) -> tuple[float, Float[Tensor, " resample"]]:
        return self._at_recall(self.feature_scores)

    def _at_recall(self, scores: Float[Tensor, " n"]) -> tuple[float, Float[Tensor, " resample"]]:
        """The precision at the feature's recall, and that in each resample."""
        labels, hits = self.half.labels[self.index], self.weights @ self.feature.hits
        if self.feature.recall == 0:
            return nan, torch.full_like(hits, nan)
        curve = Ranking.from_dense(scores.unsqueeze(1)).against(labels)
        resampled = resampled_precision(scores, labels, self.half.sequences, self.weights, hits)
        return curve.precision_at(self.feature.recall).item(), resampled

    def _score(
        self,
        family: str,
        candidates: Detectors,
        choice: Choice,
        best: Best,
        precision: tuple[float, Float[Tensor, " resample"]],
        advantage: tuple[float, float, float],
    ) -> ConceptScore:
        """The score of a family: `precision` of candidate `best`, and its best AP and F1."""
        labels = self.half.labels[self.index]
        by_average = candidates.scores(choice.average_precision.candidate).unsqueeze(1)
        average = Ranking.from_dense(by_average).against(labels).average_precision()
        candidate, sign = candidates.signed(best.candidate)
        return ConceptScore(
            self.concept,
            self.dictionary,
            family,
            candidate,
            sign,
            best.threshold,
            self.feature.n_matches,
            self.feature.recall,
            *self._interval(*precision),
            *advantage,
            naive_recall=self.naive_recall,
            naive_precision=best.value,
            average_precision=average.item(),
            f1=_use(self.half, self.index, candidates, choice.f1).f1,
        )
