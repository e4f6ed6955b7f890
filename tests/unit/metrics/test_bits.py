"""Prices in bits, against the entropy of sources whose sets can all be listed."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from dictlearn.core.dictionary import Traits
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.metrics.bits import (
    BITS,
    NOT_MEASURED,
    QUANTIZED,
    REPORTED,
    bit_metrics,
    code_bits,
    level_code,
    numbers_active,
    support_code,
)
from dictlearn.metrics.pooled import METRICS, SUMS


def values(metrics):
    return {name: metric.value for name, metric in metrics.items()}


def entropy(counts):
    q = torch.tensor(counts, dtype=torch.float64)
    q = q[q > 0] / q.sum()
    return -(q * q.log2()).sum().item()


def tables(rows, n_groups=1):
    """The tables of rows of 0 and 1, and their coefficients."""
    acts = SparseActs.from_dense(rows.float())
    numbers = numbers_active(acts, n_groups)
    size = rows.shape[1] // n_groups
    counted = torch.stack([n.bincount(minlength=size + 1) for n in numbers.T])
    return acts, (acts.firing_counts(), counted)


def price(rows, n_groups=1):
    counts = tables(rows, n_groups)[1]
    return support_code(*counts).mean(*counts)


def rows_of(source, n_features):
    """One row for each time that a set occurs."""
    rows = torch.zeros(sum(source.values()), n_features)
    places = itertools.chain.from_iterable([s] * n for s, n in source.items())
    for row, features in zip(rows, places, strict=True):
        row[list(features)] = 1
    return rows


def sets(n_features):
    return [
        chosen
        for size in range(n_features + 1)
        for chosen in itertools.combinations(range(n_features), size)
    ]


def random_source(seed, n_features=5):
    """Counts of all sets, of which some never occur; features depend on one another."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 40, (2**n_features,), generator=generator)
    counts *= torch.rand(2**n_features, generator=generator) < 0.1 + 0.8 * (seed % 5) / 4
    counts[seed % len(counts)] += 1
    return {s: int(n) for s, n in zip(sets(n_features), counts, strict=True)}


@pytest.mark.parametrize("seed", range(40))
def test_the_price_of_sets_is_the_mean_length_and_covers_their_entropy(seed):
    source = random_source(seed)
    rows = rows_of(source, 5)
    acts, counts = tables(rows)
    code = support_code(*counts)
    assert code.lengths(acts).mean().item() == pytest.approx(code.mean(*counts), abs=1e-12)
    assert code.mean(*counts) >= entropy(list(source.values())) - 1e-9


@pytest.mark.parametrize("seed", range(40))
def test_lengths_are_those_of_a_code_that_can_be_read_back(seed):
    """Kraft: over all sets that the tables allow, `2^-length` sums up to 1 at most."""
    rows = rows_of(random_source(seed), 5)
    code = support_code(*tables(rows)[1])
    always = (rows == 1).all(dim=0)  # a decoder knows from the tables that they are active
    allowed = [s for s in sets(5) if set(always.nonzero()[:, 0].tolist()) <= set(s)]
    every, _ = tables(rows_of(dict.fromkeys(allowed, 1), 5))
    assert (2 ** -code.lengths(every)).sum() <= 1 + 1e-9


def test_independent_features_cost_their_binary_entropies():
    """Two features, a quarter and a half of the time, in all combinations."""
    source = {(): 3, (0,): 1, (1,): 3, (0, 1): 1}
    assert price(rows_of(source, 2)) == pytest.approx(entropy([1, 3]) + 1)
    assert price(torch.ones(4, 3)) == price(torch.zeros(4, 3)) == price(torch.zeros(4, 0)) == 0


def test_a_number_and_draws_by_hand():
    """All pairs of 6 codes equally often: log2 15 bits at least, 2 log2 6 in order."""
    pairs = dict.fromkeys(itertools.combinations(range(6), 2), 1)
    assert price(rows_of(pairs, 6)) == pytest.approx(2 * math.log2(6) - 1)
    sizes = rows_of({(0,): 1, (1,): 1, (2,): 1, (3,): 1, (): 4}, 4)
    assert price(sizes) == pytest.approx(1 + 0.5 * 2)  # H(m), and two bits half of the time


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (4, 2, 1, 1), (7, 0, 3, 2), (5, 0, 0, 0)])
def test_one_code_a_row_costs_the_entropy_of_the_codes(counts):
    source = {(i,): n for i, n in enumerate(counts)}
    assert price(rows_of(source, 4)) == pytest.approx(entropy(counts), abs=1e-12)
    assert price(rows_of(source, 4)) <= code_bits(4, 1, 1)


def test_groups_are_coded_apart_and_add_up():
    rows = rows_of({(0, 4): 1, (0, 5): 1, (1, 6): 1, (1, 7): 1}, 8)
    assert price(rows, n_groups=2) == pytest.approx(1 + 2)
    assert numbers_active(SparseActs.from_dense(rows), 2).tolist() == [[1, 1]] * 4
    dense = torch.cat([rows[:, :4], torch.ones(4, 4)], dim=1)  # each group in its shorter way
    assert price(dense, n_groups=2) == pytest.approx(1)
    with pytest.raises(InputError, match="8 features in 3 groups"):
        support_code(torch.ones(8, dtype=torch.long), torch.ones(3, 3, dtype=torch.long))


def test_levels_cost_the_logarithm_of_their_frequency():
    counts = torch.tensor([5, 2, 1])
    mean = (counts * level_code(counts)).sum().item() / 8
    assert mean == pytest.approx(entropy([5, 2, 1]))
    assert level_code(torch.tensor([9])).item() == 0


def test_support_and_coefficients_add_up():
    found = values(bit_metrics(4.0, 4, Traits(), Metric(3.0)))
    assert found["support_bits"] + 3 == found["bits"] == 7
    assert math.isnan(found["code_bits"])


def test_what_nobody_measured_has_a_reason():
    found = bit_metrics(4.0, 4, Traits(nonnegative=True, max_active=4))
    assert found["support_bits"].value == 4
    assert found["bits"].reason == found["coefficient_bits"].reason == NOT_MEASURED
    assert "not codes" in found["code_bits"].reason


def test_binary_features_without_a_limit_are_no_codes_and_cost_their_support():
    found = values(bit_metrics(4.0, 4, Traits(binary=True)))
    assert found["support_bits"] == found["bits"] == 4
    assert found["coefficient_bits"] == 0
    assert math.isnan(found["code_bits"])


def test_a_dictionary_without_features_costs_nothing():
    found = values(bit_metrics(0.0, 0, Traits(binary=True, max_active=0)))
    assert set(found.values()) == {0.0}


def test_quantization_changes_all_sums_of_estimates_and_no_other():
    """Every metric but those of the target, of sparsity and of bits depends on one of these."""
    assert set(QUANTIZED) <= set(SUMS)
    unchanged = {m.name for m in METRICS if not m.sums & set(QUANTIZED)}
    assert unchanged == {"l0", "dead_fraction", "massive_fraction", "cross_entropy_clean"}


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
