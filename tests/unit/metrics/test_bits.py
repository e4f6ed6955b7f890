"""Prices in bits, against what codes cost by counting."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import (
    BITS,
    NOT_MEASURED,
    REPORTED,
    bit_metrics,
    code_bits,
    code_entropy,
    coefficient_bits,
    entropy,
    support_bits,
)


def values(metrics):
    return {name: metric.value for name, metric in metrics.items()}


@pytest.mark.parametrize("n_codes", [1, 2, 5, 16, 1000])
def test_one_code_of_c_used_evenly_costs_log2_c(n_codes):
    density = torch.full((n_codes,), 1 / n_codes, dtype=torch.float64)
    assert code_entropy(density, k=1, n_groups=1) == pytest.approx(math.log2(n_codes))
    assert code_bits(n_codes, k=1, n_groups=1) == math.log2(n_codes)


def test_groups_add_up():
    density = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.25, 0.25, 0.25, 0.25])
    assert code_entropy(density, k=1, n_groups=2) == 3.0
    with pytest.raises(InputError, match="8 features in 3 groups"):
        code_entropy(density, k=1, n_groups=3)


def test_skewed_codes_cost_their_entropy_and_less_than_their_number():
    density = torch.tensor([0.5, 0.25, 0.125, 0.125])
    assert code_entropy(density, k=1, n_groups=1) == 1.75 < code_bits(4, 1, 1)


def test_the_price_of_sets_covers_their_entropy_and_not_their_order():
    """All pairs of 6 codes equally often: log2 15 bits at least, 2 log2 6 in order."""
    pairs = list(itertools.combinations(range(6), 2))
    price = code_entropy(torch.full((6,), 1 / 3), k=2, n_groups=1)
    assert price == pytest.approx(2 * math.log2(6) - 1)
    assert math.log2(len(pairs)) < price < 2 * math.log2(6)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (0.3, 0.1)])
def test_rows_with_fewer_codes_are_never_priced_below_an_ideal_code(shares):
    """Of 5 codes two are chosen with probability a, one with b, none with the rest."""
    two, one = shares
    none = 1 - two - one
    density = torch.full((5,), (2 * two + one) / 5, dtype=torch.float64)
    sizes = entropy(torch.tensor([two, one, none]))
    ideal = sizes + two * math.log2(10) + one * math.log2(5)
    assert code_entropy(density, k=2, n_groups=1) >= ideal - 1e-9


def test_nothing_chosen_and_no_features_cost_nothing():
    assert code_entropy(torch.zeros(4), k=2, n_groups=1) == 0
    assert code_entropy(torch.zeros(0), k=0, n_groups=1) == 0
    assert code_bits(0, 0, 1) == support_bits(torch.zeros(0)) == entropy(torch.zeros(0)) == 0


def test_support_costs_a_binary_entropy_a_feature():
    assert support_bits(torch.full((7,), 0.5)) == pytest.approx(7)
    h = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert support_bits(torch.tensor([0.1, 0.9, 0.0, 1.0]).double()) == pytest.approx(2 * h)


def test_coefficients_cost_the_entropy_of_their_levels():
    assert coefficient_bits(10.0, torch.tensor([1, 1, 1, 1])) == 20
    assert coefficient_bits(10.0, torch.tensor([9])) == 0
    assert coefficient_bits(0.0, torch.zeros(0, dtype=torch.long)) == 0


def test_support_and_coefficients_add_up():
    density = torch.full((4,), 0.5)
    found = values(bit_metrics(density, Traits(), Metric(3.0)))
    assert found["support_bits"] + 3 == found["bits"] == 7
    assert math.isnan(found["code_bits"])


def test_what_nobody_measured_has_a_reason():
    found = bit_metrics(torch.full((4,), 0.5), Traits(nonnegative=True, max_active=4))
    assert found["support_bits"].value == 4
    assert found["bits"].reason == found["coefficient_bits"].reason == NOT_MEASURED
    assert "not codes" in found["code_bits"].reason
    none = bit_metrics(None, Traits())
    assert {m.reason for m in none.values()} == {"no rows were counted"}


def test_binary_features_without_a_limit_are_no_codes_and_cost_their_support():
    found = values(bit_metrics(torch.full((4,), 0.5), Traits(binary=True)))
    assert found["support_bits"] == found["bits"] == 4
    assert found["coefficient_bits"] == 0
    assert math.isnan(found["code_bits"])


def test_a_dictionary_without_features_costs_nothing():
    found = values(bit_metrics(torch.zeros(0), Traits(binary=True, max_active=0)))
    assert set(found.values()) == {0.0}


def test_the_documentation_has_the_units_and_directions_that_are_declared():
    page = (Path(__file__).parents[3] / "docs" / "results.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| ([^|]+) \| [^|]+ \| (lower|higher|neither) \|$", page, re.M
    )
    assert rows == [(metric.name, metric.unit, metric.better) for metric in REPORTED]
    assert len({metric.label for metric in REPORTED}) == len(REPORTED)
    assert all(metric.description.endswith(".") for metric in REPORTED)


def test_bits_stand_beside_l0():
    names = [metric.name for metric in REPORTED]
    assert names[:3] == ["l0", "l1", "support_bits"]
    assert len(set(names)) == len(names)
    assert {metric.name for metric in BITS} < set(names)
