"""Average precision of features and of other families, counted by hand."""

import pytest

from dictlearn.comparison.statistics.precision import families_of, precision_frame
from dictlearn.metrics.intervals import student_quantile
from dictlearn.records.concepts import Family


def test_by_hand(concepts):
    frame = precision_frame(concepts)
    assert frame.index.tolist() == [
        ("d", "random"), ("d", "neurons"), ("d", "pca"),
        ("<other>", "random"), ("<other>", "neurons"),
    ]  # fmt: skip
    found = frame.loc[("d", "random")]
    assert found.n_concepts == 2
    assert (found.features, found.baseline) == pytest.approx((0.75, 0.5))
    margin = student_quantile(1) * 0.05  # of the mean of 0.3 and 0.2
    expected = (0.25, 0.25 - margin, 0.25 + margin)
    assert (found.difference, found.difference_low, found.difference_high) == pytest.approx(
        expected
    )
    assert (found.better, found.significantly_better, found.significantly_worse) == (1, 0.5, 0)
    assert found.random_better != found.random_better
    assert (found.precision, found.recall) == (0.5, 0.4), "where it is defined"
    assert found.naive_better == 1
    assert frame.loc[("d", "neurons")].random_better == 0.5
    other = frame.loc[("<other>", "neurons")]
    assert (other.better, other.significantly_worse, other.random_better) == (0, 1, 0)
    assert families_of(concepts) == [Family.RANDOM, Family.NEURONS, Family.PCA]
