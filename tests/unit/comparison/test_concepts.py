"""Features beside their rivals, counted by hand."""

from math import nan

import pytest

from dictlearn.comparison.concepts import precision_frame
from dictlearn.core.concept_records import ConceptRecords, ConceptScore
from dictlearn.core.provenance import Provenance


def score(concept, family, precision, naive, advantage=(nan, nan, nan), dictionary="d"):
    return ConceptScore(
        concept, dictionary, family, 0, 1, nan, 50, 0.5, precision, precision, precision,
        *advantage, naive_recall=0.5, naive_precision=naive, average_precision=0.5, f1=0.5,
    )  # fmt: skip


def test_by_hand():
    scores = [
        score("comma", "features", 0.9, 0.95),
        score("comma", "neurons", 0.5, 0.6, (0.4, 0.2, 0.6)),
        score("she", "features", 0.6, 0.7),
        score("she", "neurons", 0.5, 0.8, (0.1, -0.1, 0.3)),
        score("day", "features", 0.3, 0.5),
        score("day", "neurons", 0.5, 0.6, (-0.2, -0.3, -0.1)),
        score("time", "features", nan, 0.4),  # the feature never met it again
        score("time", "neurons", nan, 0.3),
        score("comma", "features", 0.1, 0.1, dictionary="other"),
        score("comma", "neurons", 0.2, 0.1, (-0.1, -0.2, 0.1), dictionary="other"),
    ]
    frame = precision_frame(ConceptRecords(Provenance(), {}, {}, scores, {}))
    assert frame.index.tolist() == [("d", "neurons"), ("other", "neurons")]
    found = frame.loc[("d", "neurons")]
    assert found.n_concepts == 4
    assert found.features == pytest.approx(0.6)
    assert found.rival == pytest.approx(0.5)
    assert (found.better, found.surely_better, found.surely_worse) == (0.5, 0.25, 0.25)
    assert found.naive_features == pytest.approx((0.95 + 0.7 + 0.5 + 0.4) / 4)
    assert found.naive_rival == pytest.approx((0.6 + 0.8 + 0.6 + 0.3) / 4)
    assert found.naive_better == 0.5
    assert frame.loc[("other", "neurons")].better == 0
