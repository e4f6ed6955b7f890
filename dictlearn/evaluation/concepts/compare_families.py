"""Scores of the detectors of all families on the half of the text that they were not chosen on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

from dictlearn.core.sites import Site
from dictlearn.evaluation.concepts.detectors import Choice, Detectors, choose
from dictlearn.evaluation.concepts.split_halves import Half
from dictlearn.metrics.intervals import Interval, Jackknifed
from dictlearn.metrics.precision import jackknifed_average_precision, jackknifed_ratio
from dictlearn.records.concepts import ConceptScore, Family

FEWEST_SEQUENCES = 4
"""Matches in fewer sequences are no ground for an interval."""


def compare_families(
    choosing: Half, scoring: Half, names: Sequence[str], target: Site, concepts: Sequence[str]
) -> list[ConceptScore]:
    """The scores of the dictionaries `names`, all with this target, and of baselines."""
    baselines = {
        family: _detections(choosing, scoring, candidates, scoring.baselines[target][family])
        for family, candidates in choosing.baselines[target].items()
    }
    found: dict[str, Mapping[Family, list[_Detection]]] = {
        name: {
            Family.FEATURES: _detections(
                choosing, scoring, choosing.features[name], scoring.features[name]
            ),
            Family.RANDOM: _detections(
                choosing, scoring, choosing.random[name], scoring.random[name]
            ),
            **baselines,
        }
        for name in names
    }
    return [
        families[family][i].score(concept, name, family, families[Family.FEATURES][i])
        for i, concept in enumerate(concepts)
        for name, families in found.items()
        for family in families
    ]


def without_interval(half: Half, concepts: Sequence[str]) -> dict[str, str]:
    """The concepts with matches in too few sequences for an interval, each with the reason."""
    numbers = [len(half.sequences[labels].unique()) for labels in half.labels]
    return {
        concept: f"{n} sequences with a match, at least {FEWEST_SEQUENCES} are required"
        for concept, n in zip(concepts, numbers, strict=True)
        if n < FEWEST_SEQUENCES
    }


@dataclass(frozen=True)
class _Detection:
    """The detection of one concept by the chosen candidate of a family, on the scored half."""

    choice: Choice
    candidate: int
    sign: int
    n_matches: int
    n_rows: int
    average_precision: Jackknifed
    precision: Jackknifed
    recall: Jackknifed
    enough: bool
    """Whether enough sequences have a match for intervals."""

    def score(
        self, concept: str, dictionary: str, family: Family, feature: "_Detection"
    ) -> ConceptScore:
        """The score beside that of the dictionary's own feature."""
        difference = feature.average_precision.minus(self.average_precision)
        return ConceptScore(
            concept,
            dictionary,
            family,
            self.candidate,
            self.sign,
            self.choice.threshold,
            self.n_matches,
            self.n_matches / self.n_rows,
            *self._shown(self.average_precision.interval),
            *(self._shown(difference) if self is not feature else (nan, nan, nan)),
            self.choice.average_precision,
            *self._shown(self.precision.interval),
            *self._shown(self.recall.interval),
        )

    def _shown(self, interval: Interval) -> Interval:
        return interval if self.enough else Interval(interval.value, nan, nan)


def _detections(
    choosing: Half, scoring: Half, candidates: Detectors, held_out: Detectors
) -> list[_Detection]:
    """The detection of every concept by the best of `candidates`, which are `held_out` scored."""
    return [
        _detection(scoring, i, held_out, choice)
        for i, choice in enumerate(choose(candidates, choosing.labels))
    ]


def _detection(half: Half, concept: int, candidates: Detectors, choice: Choice) -> _Detection:
    labels, scores = half.labels[concept], candidates.scores(choice.candidate)
    taken = scores >= choice.threshold

    def counts(of: Tensor) -> Tensor:
        return torch.bincount(half.sequences[of], minlength=half.n_sequences)

    hits, matches = counts(taken & labels), counts(labels)
    return _Detection(
        choice,
        *candidates.signed(choice.candidate),
        int(matches.sum()),
        len(labels),
        jackknifed_average_precision(scores, labels, half.sequences, half.n_sequences),
        jackknifed_ratio(hits, counts(taken)),
        jackknifed_ratio(hits, matches),
        int((matches > 0).sum()) >= FEWEST_SEQUENCES,
    )
