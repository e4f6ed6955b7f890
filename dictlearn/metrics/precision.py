"""Precision and recall of scores as detectors of a concept, for many candidates at once.

A candidate gives every token a score. With a threshold, the tokens with at least that score are
predicted positive, those with equal scores together. Precision is the fraction of predicted
positives that are true, recall the fraction of true positives that are predicted. Between two
successive thresholds that add true positives, precision at a given recall is that of choosing one
of the two at random, in the proportion that gives this recall on average (Davis and Goadrich
2006, "The Relationship Between Precision-Recall and ROC Curves", section 4): attainable, and
monotone in the number of predicted positives.

In names, *matches* are the tokens with the concept, *hits* are matches that are predicted
positive, and *taken* are all tokens that are predicted positive.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.intervals import Jackknifed


@dataclass(frozen=True)
class Ranking:
    """Tokens in descending order of their score, for each candidate; sorted once for all labels.

    Tokens without an entry have equal scores, below all entries of their candidate.
    """

    rows: Int[Tensor, " entry"]
    """The token of each entry."""
    scores: Float[Tensor, " entry"]
    taken: Int[Tensor, " entry"]
    """Number of tokens with at least this score, for the same candidate."""
    offsets: Int[Tensor, " candidate_plus_1"]
    n_rows: int

    @classmethod
    def from_dense(cls, scores: Float[Tensor, "n candidate"]) -> "Ranking":
        """The ranking by scores that every token has, of any sign."""
        ordered, rows = scores.T.contiguous().sort(dim=1, descending=True)
        n, n_candidates = scores.shape
        offsets = torch.arange(n_candidates + 1) * n
        return cls._sorted(rows.flatten(), ordered.flatten(), offsets, n)

    @classmethod
    def from_sparse(cls, acts: SparseActs) -> "Ranking":
        """The ranking by sparse coefficients, which must be positive: absent ones count as 0."""
        if bool((acts.values <= 0).any()):
            raise InputError(
                "a sparse ranking needs positive coefficients, as absent ones count as 0; give the "
                "positive and the negative parts of a feature as two candidates"
            )
        order = acts.values.argsort(descending=True)
        order = order[acts.indices[order].argsort(stable=True)]
        counts = acts.firing_counts()
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls._sorted(acts.rows()[order], acts.values[order], offsets, len(acts))

    @classmethod
    def _sorted(
        cls,
        rows: Int[Tensor, " entry"],
        scores: Float[Tensor, " entry"],
        offsets: Int[Tensor, " candidate_plus_1"],
        n_rows: int,
    ) -> "Ranking":
        """The ranking of entries in their final order; counts the tokens taken at each."""
        new = torch.ones(len(scores) + 1, dtype=torch.bool)  # where a tie begins; and the end
        torch.ne(scores[1:], scores[:-1], out=new[1:-1])
        new[offsets] = True
        begins = new.nonzero()[:, 0]
        lengths = begins.diff()
        before = torch.repeat_interleave(offsets[:-1], offsets.diff())
        return cls(rows, scores, begins[1:].repeat_interleave(lengths) - before, offsets, n_rows)

    def against(self, labels: Bool[Tensor, " n"]) -> "Curves":
        """The precision-recall curve of every candidate for the labelled tokens, one at least."""
        n_matches = int(labels.sum())
        if n_matches == 0:
            raise InputError("precision needs at least 1 token with the label, got none")
        where = labels.index_select(0, self.rows).nonzero()[:, 0]
        offsets = torch.searchsorted(where, self.offsets)
        counts = offsets.diff()
        taken, begins = self.taken[where], self.offsets[:-1].repeat_interleave(counts)
        hits = torch.searchsorted(where, begins + taken) - offsets[:-1].repeat_interleave(counts)
        return Curves(hits, taken, self.scores[where], offsets, n_matches, self.n_rows)


@dataclass(frozen=True)
class Curves:
    """Precision-recall curves of many candidates, with one step for each match with an entry.

    A curve ends at recall 1, where every token is taken, those without an entry included.
    """

    hits: Int[Tensor, " step"]
    """Number of matches with at least this score."""
    taken: Int[Tensor, " step"]
    """Number of tokens with at least this score."""
    scores: Float[Tensor, " step"]
    offsets: Int[Tensor, " candidate_plus_1"]
    n_matches: int
    n_rows: int

    def average_precision(self) -> Float[Tensor, " candidate"]:
        """The precision at the score of each matching token, averaged over matching tokens.

        Equal to the sum over thresholds of precision times the gain in recall. From 0 to 1; for
        uninformative scores it is the fraction of tokens that match.
        """
        sums = self._zeros().index_add_(0, self._candidates(), self.hits / self.taken.double())
        absent = self.n_matches - self.offsets.diff()
        return (sums + absent * (self.n_matches / self.n_rows)) / self.n_matches

    def best_f1_threshold(self, candidate: int) -> float:
        """The threshold at an entry with the largest harmonic mean of precision and recall.

        `nan` for a candidate without hits.
        """
        part = slice(*self.offsets[candidate : candidate + 2].tolist())
        f1 = 2 * self.hits[part] / (self.n_matches + self.taken[part]).double()
        return self.scores[part][f1.argmax()].item() if len(f1) else float("nan")

    def precision_at(self, recall: float) -> Float[Tensor, " candidate"]:
        """The precision at exactly `recall`, in (0, 1], interpolated between thresholds."""
        if not 0 < recall <= 1:
            raise InputError(f"required a recall above 0 and at most 1, got {recall}")
        target = recall * self.n_matches
        if abs(target - round(target)) < 1e-9 * target:  # the recall was a rounded quotient
            target = round(target)
        short = (self.hits < target).long()
        below = self._zeros().long().index_add_(0, self._candidates(), short)
        hits = torch.cat([self.hits, self.hits.new_tensor([0, self.n_matches])])
        taken = torch.cat([self.taken, self.taken.new_tensor([0, self.n_rows])])
        at = self.offsets[:-1] + below
        upper = torch.where(at < self.offsets[1:], at, len(hits) - 1)
        lower = torch.where(below > 0, at - 1, len(hits) - 2)
        share = (target - hits[lower]) / (hits[upper] - hits[lower]).double()
        n_taken = taken[lower] + share * (taken[upper] - taken[lower])
        return torch.full_like(n_taken, target) / n_taken  # not 1 / n_taken, rounded, times target

    def _zeros(self) -> Float[Tensor, " candidate"]:
        return torch.zeros(len(self.offsets) - 1, dtype=torch.float64)

    def _candidates(self) -> Int[Tensor, " step"]:
        return torch.repeat_interleave(self.offsets.diff())


def jackknifed_average_precision(
    scores: Float[Tensor, " n"],
    labels: Bool[Tensor, " n"],
    sequences: Int[Tensor, " n"],
    n_sequences: int,
) -> Jackknifed:
    """The average precision of one candidate, and that without each of the sequences.

    `nan` without a sequence that has all the matches.
    """
    ranking = Ranking.from_dense(scores.unsqueeze(1))
    curves = ranking.against(labels)
    ends = curves.taken.unique()
    step = torch.searchsorted(ends, ranking.taken)  # the first end that takes each token
    cell = step * n_sequences + sequences[ranking.rows]
    shape = (len(ends) + 1, n_sequences)  # the last row has the tokens after the last match
    tokens, matches = (
        torch.bincount(some, minlength=shape[0] * shape[1]).reshape(shape)[:-1]
        for some in (cell, cell[labels[ranking.rows]])
    )
    tokens, matches = (x.sum(dim=1, keepdim=True) - x for x in (tokens, matches))  # of the others
    precision = matches.cumsum(0) / tokens.cumsum(0).clamp(min=1).double()
    left_out = (matches * precision).sum(dim=0) / matches.sum(dim=0)
    own = torch.bincount(sequences[labels], minlength=n_sequences)
    return Jackknifed(curves.average_precision().item(), left_out, own)


def jackknifed_ratio(
    numerators: Int[Tensor, " sequence"], denominators: Int[Tensor, " sequence"]
) -> Jackknifed:
    """The ratio of two counts over all sequences, and without each; `nan` where it is 0 / 0."""
    above, below = numerators.sum(), denominators.sum().double()
    left_out = (above - numerators) / (below - denominators)
    return Jackknifed((above / below).item(), left_out, denominators)
