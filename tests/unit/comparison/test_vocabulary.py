import math

import pytest

from dictlearn.comparison.vocabulary import (
    LABELS,
    Footnotes,
    formatted,
    reference_losses,
    require_metric,
    with_interval,
)
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import REPORTED
from dictlearn.metrics.intervals import Interval
from dictlearn.records.results import Records


def test_every_metric_has_a_label_in_order():
    assert list(LABELS) == [metric.name for metric in REPORTED]


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("l0", 1536.2, "1,536"),
        ("dead_fraction", 0.0, "0.0%"),
        ("loss_recovered_zero", -1.8257, "-1.826"),
        ("kl", 0.0, "0.000"),
        ("kl", 3e-5, "3.0e-05"),
        ("kl", math.nan, "\N{EN DASH}"),
    ],
)
def test_formatted_digits(metric, value, text):
    assert formatted(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "ends", "text"),
    [
        ("kl", (0.912, 0.905, 0.917), "0.912 ±0.006"),
        ("kl", (0.010, 0.0096, 0.0104), "0.010 ±<0.001"),
        ("kl", (2e-5, 1e-5, 3e-5), "2.0e-05 ±1.0e-05"),
        ("l0", (31.94, 31.0, 33.0), "31.9 ±1.0"),
        ("l0", (3.0, math.nan, math.nan), "3.0"),
        ("kl", (math.nan, math.nan, math.nan), "\N{EN DASH}"),
    ],
)
def test_intervals_have_the_digits_of_their_value(metric, ends, text):
    assert with_interval(metric, Interval(*ends)) == text


def test_footnotes_number_each_reason_once():
    notes = Footnotes()
    cells = [notes.cell("kl", Metric(math.nan, reason)) for reason in ("a", "b", "a")]
    assert cells == ["\N{EN DASH}¹", "\N{EN DASH}²", "\N{EN DASH}¹"]
    assert notes.lines() == ["¹ a", "² b"]


def test_reference_losses_are_pooled_for_each_target_hook(records, make):
    other = make("sae", hook="blocks.1.hook_mlp_out", zero=7.0)
    both = Records(records.provenance, records.tokens, {**records.dictionaries, "late": other})
    losses = reference_losses(both)
    assert list(losses) == ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]
    assert (losses["blocks.0.hook_mlp_out"].clean, losses["blocks.0.hook_mlp_out"].mean) == (2, 3)
    assert losses["blocks.1.hook_mlp_out"].zero == 7


def test_reference_losses_come_from_who_has_them(records, make):
    """Runs may differ in the ablations that they measured."""
    lean = make("sae")
    lean.sums["cross_entropy_mean"].fill_(math.nan)
    both = Records(records.provenance, records.tokens, {"lean": lean, **records.dictionaries})
    (losses,) = reference_losses(both).values()
    assert losses.mean == 3


def test_reference_losses_without_predictions_are_nan(records):
    for record in records.dictionaries.values():
        record.sums["predictions"].zero_()
    (losses,) = reference_losses(records).values()
    assert math.isnan(losses.clean)


def test_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        require_metric("cosin")
