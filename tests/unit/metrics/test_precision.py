"""Precision against hand computation, another library, and the long way round."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from dictlearn.core.errors import InputError
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.intervals import bootstrap_weights
from dictlearn.metrics.precision import Ranking, resampled_precision


def column(*scores):
    return torch.tensor(scores, dtype=torch.float32).unsqueeze(1)


def mask(text):
    return torch.tensor([c == "1" for c in text])


def test_a_detector_of_the_label_has_precision_one_at_recall_one():
    labels = mask("0110010001")
    detector = labels.float().unsqueeze(1)
    for ranking in (Ranking.from_dense(detector),
                    Ranking.from_sparse(SparseActs.from_dense(3 * detector))):  # fmt: skip
        curves = ranking.against(labels)
        assert curves.precision_at(1.0).tolist() == [1.0]
        assert curves.average_precision().tolist() == [1.0]
        assert curves.best_f1().tolist() == [1.0]
    assert curves.best_f1_threshold(0) == 3.0


def test_by_hand_without_ties():
    """Hits at ranks 1, 3 and 6 of 6: precisions 1, 2/3 and 1/2."""
    curves = Ranking.from_dense(column(6, 5, 4, 3, 2, 1)).against(mask("101001"))
    assert curves.hits.tolist() == [1, 2, 3]
    assert curves.taken.tolist() == [1, 3, 6]
    assert curves.average_precision().item() == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert curves.best_f1().item() == pytest.approx(2 * 2 / (3 + 3))
    assert curves.best_f1_threshold(0) == 4.0
    assert curves.precision_at(1 / 3).item() == pytest.approx(1)
    assert curves.precision_at(2 / 3).item() == pytest.approx(2 / 3)
    assert curves.precision_at(1.0).item() == pytest.approx(1 / 2)
    # Half of the way from (1 hit, 1 taken) to (2, 3): one and a half hits among two.
    assert curves.precision_at(1.5 / 3).item() == pytest.approx(1.5 / 2)
    assert curves.precision_at(0.5 / 3).item() == pytest.approx(1)


def test_tied_tokens_are_taken_together():
    """Four tokens of one score hold both matches: no threshold separates them."""
    curves = Ranking.from_dense(column(2, 2, 2, 2, 1, 1)).against(mask("100100"))
    assert curves.hits.tolist() == [2, 2]
    assert curves.taken.tolist() == [4, 4]
    assert curves.average_precision().item() == 0.5
    for recall in (0.1, 0.5, 1.0):
        assert curves.precision_at(recall).item() == pytest.approx(0.5)


def test_a_constant_score_has_the_base_rate_everywhere():
    labels = mask("0100100000")
    constant = Ranking.from_dense(torch.ones(10, 2)).against(labels)
    absent = Ranking.from_sparse(SparseActs.from_dense(torch.zeros(10, 2))).against(labels)
    for curves in (constant, absent):
        assert curves.precision_at(0.3).tolist() == pytest.approx([0.2, 0.2])
        assert curves.average_precision().tolist() == pytest.approx([0.2, 0.2])
    assert constant.best_f1().tolist() == pytest.approx([4 / 12, 4 / 12])
    assert absent.best_f1().tolist() == [0.0, 0.0], "what is at rest marks nothing"
    assert math.isnan(absent.best_f1_threshold(1))


def test_random_scores_have_the_base_rate_on_average():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(4000, generator=generator) < 0.1
    curves = Ranking.from_dense(torch.randn(4000, 300, generator=generator)).against(labels)
    base = labels.float().mean().item()
    for values in (curves.precision_at(0.5), curves.average_precision()):
        assert values.mean().item() == pytest.approx(base, rel=0.03)


@pytest.fixture
def sparse():
    """Sparse positive scores with many ties, and labels."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(1, 6, (200, 30), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) < 0.8] = 0
    scores[:, 7] = 0
    return scores, torch.rand(200, generator=generator) < 0.2


def test_sparse_and_dense_rankings_agree(sparse):
    scores, labels = sparse
    dense = Ranking.from_dense(scores).against(labels)
    short = Ranking.from_sparse(SparseActs.from_dense(scores)).against(labels)
    assert len(short.hits) < len(dense.hits)
    for recall in (0.01, 0.2, 0.37, 1.0):
        torch.testing.assert_close(short.precision_at(recall), dense.precision_at(recall))
    torch.testing.assert_close(short.average_precision(), dense.average_precision())


def test_every_candidate_agrees_with_scikit_learn(sparse):
    scores, labels = sparse
    curves = Ranking.from_sparse(SparseActs.from_dense(scores)).against(labels)
    for i, (ap, f1) in enumerate(zip(curves.average_precision(), curves.best_f1(), strict=True)):
        assert ap.item() == pytest.approx(average_precision_score(labels, scores[:, i]))
        thresholds = scores[:, i].unique()[1:]  # without 0
        each = [f1_score(labels, scores[:, i] >= t) for t in thresholds]
        assert f1.item() == pytest.approx(max(each, default=0.0))
        at = scores[:, i] >= curves.best_f1_threshold(i)
        assert f1_score(labels, at) == pytest.approx(f1.item())


def test_precision_falls_to_the_base_rate_at_full_recall(sparse):
    scores, labels = sparse
    curves = Ranking.from_sparse(SparseActs.from_dense(scores)).against(labels)
    base = labels.double().mean().item()
    assert curves.precision_at(1.0).tolist() == pytest.approx([base] * 30)


def test_unit_weights_leave_the_precision_as_it_is(sparse):
    scores, labels = sparse
    sequences = torch.arange(200) % 20
    ones = torch.ones(3, 20, dtype=torch.float64)
    hits = torch.tensor([0.5, 8.0, float(labels.sum())], dtype=torch.float64)
    curves = Ranking.from_dense(scores).against(labels)
    for i in (0, 7, 29):
        found = resampled_precision(scores[:, i], labels, sequences, ones, hits)
        expected = [curves.precision_at(h / int(labels.sum()))[i].item() for h in hits.tolist()]
        assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("feature", [0, 3])
def test_a_resample_equals_its_tokens_written_out(sparse, feature):
    """Precision in a resample is that on the tokens of its sequences, as often as drawn."""
    scores, labels = sparse
    scores = scores[:, feature] + torch.linspace(0, 1.5, 200)  # some ties broken, some not
    sequences = torch.arange(200) // 10
    weights = bootstrap_weights(20, 25)
    drawn = [torch.repeat_interleave(w.long()[sequences]) for w in weights]
    hits = torch.tensor([0.4 * labels[tokens].sum() for tokens in drawn], dtype=torch.float64)
    found = resampled_precision(scores, labels, sequences, weights, hits)
    for tokens, precision in zip(drawn, found.tolist(), strict=True):
        curves = Ranking.from_dense(scores[tokens].unsqueeze(1)).against(labels[tokens])
        assert precision == pytest.approx(curves.precision_at(0.4).item(), rel=1e-5)


def test_a_resample_without_hits_has_no_precision():
    none = resampled_precision(
        torch.arange(4.0), mask("1100"), torch.tensor([0, 0, 1, 1]),
        torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([0.0, 1.0]),
    )  # fmt: skip
    assert none.isnan().tolist() == [True, False]


def test_a_recall_that_is_attained_needs_no_interpolation():
    """Recalls such as 1/49 times 49 need not be whole in floating point; hits are."""
    labels = torch.arange(98) % 2 == 0
    curves = Ranking.from_dense(torch.arange(98.0, 0, -1).unsqueeze(1)).against(labels)
    for k in range(1, 50):
        assert curves.precision_at(k / 49).item() == k / (2 * k - 1)


def test_what_has_no_answer_is_refused():
    ranking = Ranking.from_dense(column(1, 2))
    with pytest.raises(InputError, match="at least 1 token"):
        ranking.against(mask("00"))
    for recall in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match="recall"):
            ranking.against(mask("01")).precision_at(recall)
    with pytest.raises(InputError, match="positive coefficients"):
        Ranking.from_sparse(SparseActs.from_dense(column(1, -2)))
