"""Precision of features and of baselines, counted by hand."""

from math import nan

import pytest

from dictlearn.comparison.statistics.precision import precision_frame
from dictlearn.core.provenance import Provenance
from dictlearn.records.concepts import ConceptRecords


def test_by_hand(make_score):
    scores = [
        make_score("comma", "features", 0.9, 0.95),
        make_score("comma", "neurons", 0.5, 0.6, (0.4, 0.2, 0.6)),
        make_score("she", "features", 0.6, 0.7),
        make_score("she", "neurons", 0.5, 0.8, (0.1, -0.1, 0.3)),
        make_score("day", "features", 0.3, 0.5),
        make_score("day", "neurons", 0.5, 0.6, (-0.2, -0.3, -0.1)),
        make_score("time", "features", nan, 0.4),  # the feature never met it again
        make_score("time", "neurons", nan, 0.3),
        make_score("comma", "features", 0.1, 0.1, dictionary="other"),
        make_score("comma", "neurons", 0.2, 0.1, (-0.1, -0.2, 0.1), dictionary="other"),
    ]
    frame = precision_frame(ConceptRecords(Provenance(), {}, {}, scores, {}))
    assert frame.index.tolist() == [("d", "neurons"), ("other", "neurons")]
    found = frame.loc[("d", "neurons")]
    assert found.n_concepts == 4
    assert found.features == pytest.approx(0.6)
    assert found.baseline == pytest.approx(0.5)
    assert (found.better, found.significantly_better, found.significantly_worse) == (
        0.5,
        0.25,
        0.25,
    )
    assert found.naive_features == pytest.approx((0.95 + 0.7 + 0.5 + 0.4) / 4)
    assert found.naive_baseline == pytest.approx((0.6 + 0.8 + 0.6 + 0.3) / 4)
    assert found.naive_better == 0.5
    assert frame.loc[("other", "neurons")].better == 0
