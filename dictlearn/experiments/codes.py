"""Codes of a model that runs through its codebooks: how often each is chosen, and for what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.comparison.figures.style import styled
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.experiments.page import Table
from dictlearn.metrics.precision import Ranking

LEAST_RECALL = 0.01
"""Codes with less recall, or as much, are too rare to have a precision."""
_RANKS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class CodeScore:
    """A code as the detector of its label, and the best neuron at its recall."""

    dictionary: str
    code: int
    label: int
    precision: float
    recall: float
    neuron: float
    """The precision of the neuron."""
    f1: float
    """Harmonic mean of precision and recall on the half on which codes and neurons are chosen."""


@torch.no_grad()
def score_codes(
    codes: Mapping[str, SparseActs],
    neurons: Float[Tensor, "n neuron"],
    labels: Bool[Tensor, "n label"],
    first: Bool[Tensor, " n"],
) -> list[CodeScore]:
    """Every code that is not too rare, with the label that it detects most precisely.

    The label of a code is chosen on the tokens `first`, as is the neuron with the highest precision
    for this label at the recall of the code; precision and recall are those on the other tokens.

    Args:
        codes: the codes of all tokens, by dictionary.
        neurons: the rivals' activations at the same tokens.
        labels: the labels of each token, of which it may have several or none.
        first: the tokens on which labels and neurons are chosen.
    """
    halves = [which.nonzero()[:, 0] for which in (first, ~first)]
    matches = [labels[rows] for rows in halves]
    curves = [
        [ranking.against(label) for label in of_half.T]
        for ranking, of_half in zip(
            [Ranking.from_dense(neurons[rows]) for rows in halves], matches, strict=True
        )
    ]
    found = []
    for name, acts in codes.items():
        parts = [acts.select(rows) for rows in halves]
        hits = [_hits(part, of_half) for part, of_half in zip(parts, matches, strict=True)]
        counts = [part.firing_counts() for part in parts]
        for code in counts[0].nonzero()[:, 0].tolist():
            label = int(hits[0][code].argmax())
            n_matches = curves[1][label].n_matches
            recall = float(hits[1][code, label]) / max(n_matches, 1)
            if recall > LEAST_RECALL:
                neuron = int(curves[0][label].precision_at(recall).argmax())
                taken = float(counts[0][code]) + curves[0][label].n_matches
                found.append(CodeScore(
                    name, code, label, float(hits[1][code, label] / counts[1][code]), recall,
                    float(curves[1][label].precision_at(recall)[neuron]),
                    2 * float(hits[0][code, label]) / taken,
                ))  # fmt: skip
    return found


def best_by_label(scores: Sequence[CodeScore]) -> dict[int, CodeScore]:
    """The code with the highest F1 among those of each label."""
    return {score.label: score for score in sorted(scores, key=lambda score: score.f1)}


def mean_scores(scores: Sequence[CodeScore]) -> dict[str, float]:
    """The number of codes, and means over them of precision, the best neuron's, and recall."""
    found = {
        "codes": [s.precision for s in scores], "neurons": [s.neuron for s in scores],
        "recall": [s.recall for s in scores],
    }  # fmt: skip
    return {key: fmean(values) for key, values in found.items() if values} | {
        "n_codes": float(len(scores))
    }


def _hits(
    acts: SparseActs, labels: Bool[Tensor, "n label"]
) -> Float[Tensor, "code label"]:  # fmt: skip
    """The number of tokens with each label on which each code is active."""
    of_entries = labels[acts.rows()].double()
    zero = of_entries.new_zeros(acts.n_features, labels.shape[1])
    return zero.index_add_(0, acts.indices, of_entries)


def frequencies(codes: Mapping[str, SparseActs]) -> dict[str, list[float]]:
    """The fraction of tokens on which each code is active, the most frequent first."""
    counts = {
        name: acts.firing_counts().sort(descending=True).values for name, acts in codes.items()
    }
    return {name: (c[c > 0] / len(codes[name])).tolist() for name, c in counts.items()}


def frequency_table(about: str, found: Mapping[str, Sequence[float]]) -> Table:
    """Frequencies at some ranks, from those that `frequencies` returns."""
    rows = [
        [name, *(f"{f[rank - 1]:.4f}" if rank <= len(f) else "—" for rank in _RANKS), str(len(f))]
        for name, f in found.items()
    ]
    return Table(
        "Frequencies of codes",
        f"{about} Fraction of tokens on which the code of a rank is active.",
        ["codebooks", *(f"rank {rank}" for rank in _RANKS), "used"], rows,
    )  # fmt: skip


def frequency_figure(found: Mapping[str, Sequence[float]]) -> go.Figure:
    """The frequency of every code by its rank."""
    figure = go.Figure()
    for name, values in found.items():
        figure.add_scatter(x=list(range(1, len(values) + 1)), y=list(values), name=name)
    figure.update_xaxes(type="log", title="rank")
    figure.update_yaxes(type="log", title="fraction of tokens")
    return styled(figure, 420)
