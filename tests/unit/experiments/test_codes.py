"""Codes as detectors: planted codes and labels, of which a token may have several or none."""

import pytest
import torch

from dictlearn.core.sparse_acts import SparseActs
from dictlearn.experiments.codes import (
    best_by_label,
    frequencies,
    frequency_table,
    mean_scores,
    score_codes,
)

N = 400


@pytest.fixture
def planted():
    """Label 0 on a quarter of the tokens, label 1 on half of them, overlapping; and three codes:
    label 0 exactly, label 1 with as many other tokens, and one that is never active."""
    token = torch.arange(N)
    labels = torch.stack([token % 4 == 0, token % 4 < 2], dim=1)
    active = torch.zeros(N, 3)
    active[labels[:, 0], 0] = 1.0
    active[:, 1] = 1.0
    neurons = torch.stack([labels[:, 0].float(), -labels[:, 1].float()], dim=1)
    return SparseActs.from_dense(active), neurons, labels


def test_codes_have_the_label_that_they_detect_and_the_rival_of_it(planted):
    acts, neurons, labels = planted
    a, b = score_codes({"d": acts}, neurons, labels, torch.arange(N) < N // 2)
    # Label 1 holds wherever label 0 does: as precise, and the first of equals is taken.
    assert (a.dictionary, a.code, a.label, a.precision, a.recall, a.neuron, a.f1) == (
        "d", 0, 0, 1.0, 1.0, 1.0, 1.0,
    )  # fmt: skip
    assert (b.code, b.label, b.precision, b.recall) == (1, 1, 0.5, 1.0)
    assert b.f1 == pytest.approx(2 / 3)
    assert b.neuron == 0.5  # at recall 1 neither neuron is better than all tokens
    assert best_by_label([a, b]) == {0: a, 1: b}
    assert mean_scores([a, b]) == {"codes": 0.75, "neurons": 0.75, "recall": 1.0, "n_codes": 2.0}
    assert mean_scores([]) == {"n_codes": 0.0}


def test_rare_codes_have_no_score(planted):
    _, neurons, labels = planted
    active = torch.zeros(N, 1)
    active[[0, N // 2], 0] = 1.0  # one match of 50 in each half
    first = torch.arange(N) < N // 2
    (one,) = score_codes({"d": SparseActs.from_dense(active)}, neurons, labels, first)
    assert (one.precision, one.recall) == (1.0, 0.02)
    many = torch.ones(N, 2, dtype=torch.bool)
    assert score_codes({"d": SparseActs.from_dense(active)}, neurons, many, first) == []


def test_frequencies(planted):
    acts, *_ = planted
    found = frequencies({"d": acts})
    assert found == {"d": [1.0, 0.25]}
    assert frequency_table("Here.", found).rows == [
        ["d", "1.0000", "0.2500", *["—"] * 5, "2"],
    ]  # fmt: skip
