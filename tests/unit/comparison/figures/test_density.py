"""Histograms of feature density."""

import pytest

from dictlearn.comparison.figures.density import density_figure
from dictlearn.records.results import Records


def test_density_counts_active_features_and_names_the_rest(records):
    figure = density_figure(records)
    bars = {trace.name: trace for trace in figure.data}
    assert "mean" not in bars
    assert sum(bars["sae"].y) == 3
    assert bars["sae"].y[-1] == 1
    occupied = [x for x, y in zip(bars["sae"].x, bars["sae"].y, strict=True) if y]
    assert occupied == pytest.approx([-3, -2, 0])
    headings = [note.text for note in figure.layout.annotations]
    assert "sae: 4 features, 1 never active" in headings


def test_density_without_features_is_empty(records):
    only = {"mean": records.dictionaries["mean"]}
    assert len(density_figure(Records(records.provenance, records.tokens, only)).data) == 0
