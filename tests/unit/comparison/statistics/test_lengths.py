"""The search for learning rates, and families after several lengths of training."""

import math
from dataclasses import replace
from itertools import permutations

import pandas as pd
import pytest
import torch

from dictlearn.comparison.figures.lengths import lengths_figure
from dictlearn.comparison.report.lengths import lengths_data
from dictlearn.comparison.report.verdict import verdict
from dictlearn.comparison.statistics.learning_rates import chosen_rates, rates_frame
from dictlearn.comparison.statistics.lengths import (
    Lengths,
    changes_of_order,
    rates_at_an_end,
    rates_without_comparison,
)
from dictlearn.comparison.tables.lengths import lengths_tables
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites
from dictlearn.records.results import Records

HOOK = "blocks.0.hook_mlp_out"


@pytest.fixture
def results(records, make):
    """A factory of results: {(kind, learning rate): {L0: FVU}}, with 16 sequences each."""

    def of(errors, steps=100, noise=0.0, seeds=(0,)):
        found = {}
        for (kind, rate), curve in errors.items():
            for seed in seeds:
                draw = torch.Generator().manual_seed(len(kind) + 100 * seed)
                for l0, fvu in curve.items():
                    record = make(kind, l0=l0, fvu=fvu, spliced=2 + 2 * fvu, seed=seed)
                    sums = {name: values.repeat(4) for name, values in record.sums.items()}
                    factor = 1 + noise * torch.randn(16, generator=draw, dtype=torch.float64)
                    sums["squared_error"] = sums["squared_error"] * factor
                    excess = sums["cross_entropy_spliced"] - sums["cross_entropy_clean"]
                    sums["cross_entropy_spliced"] = sums["cross_entropy_clean"] + excess * factor
                    run = {"learning_rate": rate, "steps": steps, "batch_size": 512}
                    origin = record.provenance.trained(seed, fit_config=run)
                    name = f"{kind} {l0} {rate} {seed}"
                    found[name] = replace(record, sums=sums, provenance=origin)
        return Records(records.provenance, records.tokens, found)

    return of


SEARCHED = {
    ("sae", 0.001): {4: 0.4, 16: 0.2},
    ("sae", 0.01): {4: 0.3, 16: 0.1},
    ("sae", 0.1): {40: 0.01, 80: 0.001},
    ("codebook", 0.001): {4: 0.2, 16: 0.1},
    ("codebook", 0.01): {4: 0.4, 16: 0.3},
}


def test_the_rate_with_the_lowest_error_at_equal_l0_is_chosen(results):
    validation = results(SEARCHED)
    frame = rates_frame(validation).loc[HOOK].droplevel("l0")
    at = [0.4 - 0.2 * math.log(x / 4) / math.log(4) for x in (5, 10)]
    assert frame.loc[("sae", 0.001), "fvu"] == pytest.approx(math.sqrt(at[0] * at[1]))
    assert set(rates_frame(validation).index.get_level_values("l0")) == {"5, 10"}
    assert math.isnan(frame.loc[("sae", 0.1), "fvu"]), "lower, but at other values of L0"
    assert chosen_rates(validation) == {(HOOK, "sae"): 0.01, (HOOK, "codebook"): 0.001}


def test_one_rate_is_enough_and_dead_kinds_are_refused(results):
    assert chosen_rates(results({("sae", 0.1): {4: 0.4, 16: 0.2}})) == {(HOOK, "sae"): 0.1}
    with pytest.raises(InputError, match=r"no sae at .* with features active at two values of L0"):
        rates_frame(results({("sae", 0.1): {4: 0.4}}))
    with pytest.raises(InputError, match=r"no sae at .* and a round one .* between them"):
        rates_frame(results({("sae", 0.1): {11: 0.4, 19: 0.3}}))


def compared(found):
    """The errors of a frame by the values of L0 at which they are compared."""
    return {
        l0: there.droplevel([*range(3)])["fvu"].dropna().to_dict()
        for l0, there in found.groupby("l0", sort=False)
    }


# Only the rate 0.01 reaches values that most rates reach, with the highest error at all of them.
PARTLY_SHARED = {
    ("sae", 0.001): {4: 0.2, 25: 0.1},
    ("sae", 0.01): {4: 0.9, 25: 0.9, 40: 0.9, 120: 0.9},
    ("sae", 0.1): {40: 0.05, 300: 0.01},
}


def test_a_rate_that_alone_reaches_a_value_is_not_chosen_for_it(results):
    validation = results(PARTLY_SHARED)
    frame = rates_frame(validation)
    low = [0.2 - 0.1 * math.log(x / 4) / math.log(25 / 4) for x in (5, 10, 20)]
    high = [0.05 - 0.04 * math.log(x / 40) / math.log(300 / 40) for x in (50, 100)]
    assert compared(frame) == {
        "5, 10, 20": {0.001: pytest.approx(math.prod(low) ** (1 / 3)), 0.01: pytest.approx(0.9)},
        "50, 100": {0.01: pytest.approx(0.9), 0.1: pytest.approx(math.prod(high) ** (1 / 2))},
    }
    assert len(frame) == 2 * 3, "every rate that was tried is in every set"
    assert chosen_rates(validation) == {(HOOK, "sae"): 0.001}, "at three values, 0.1 at two"


@pytest.mark.parametrize("seed", range(5))
def test_rates_that_all_share_values_are_compared_at_these_alone(results, seed):
    """The lowest geometric mean is chosen, whatever some of the rates reach beyond."""
    draw = torch.rand((4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rates = (0.001, 0.003, 0.01, 0.03)
    fvu = {rate: row.tolist() for rate, row in zip(rates, 0.1 + 0.8 * draw, strict=True)}
    beyond = {0.003: {60: 1e-3}, 0.01: {1: 1.0, 60: 1e-4}}
    tried = {("sae", rate): dict(zip((2, 5, 10, 20), of, strict=True)) | beyond.get(rate, {})
             for rate, of in fvu.items()}  # fmt: skip
    ((listed, errors),) = compared(frame := rates_frame(results(tried))).items()
    assert listed == "2, 5, 10, 20"
    expected = {rate: math.prod(of) ** (1 / 4) for rate, of in fvu.items()}
    assert errors == {rate: pytest.approx(error) for rate, error in expected.items()}
    ((*_, best),) = frame.index[frame["chosen"]]
    assert best == min(expected, key=expected.__getitem__)


def test_the_choice_does_not_depend_on_the_order_of_the_results(results):
    frames = [
        rates_frame(results({key: PARTLY_SHARED[key] for key in order}))
        for order in permutations(PARTLY_SHARED)
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


FLAT = {"low": (4, 15), "high": (40, 220), "all": (4, 220)}


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        # 0.01 is the best of three at low L0; 0.03 has a lower or higher error where both have one.
        (["low 0.5", "low 0.4", "all 0.3", "high 0.29"], 0.03),
        (["low 0.5", "low 0.4", "all 0.3", "high 0.31"], 0.01),
        # Two rates have the lowest errors of their own sets: that with most comparisons counts.
        (["low 0.5", "low 0.2", "all 0.6", "high 0.1"], 0.003),
        (["high 0.5", "low 0.2", "all 0.6", "high 0.1"], 0.03),
        (["low 0.2", "all 0.6", "high 0.1"], 0.01),
        # Equal in all: the lower.
        (["all 0.4", "all 0.3", "all 0.3", "all 0.5"], 0.003),
    ],
)
def test_a_rate_is_chosen_by_its_worst_comparison(results, errors, best):
    tried = {}
    for rate, (where, fvu) in zip((0.001, 0.003, 0.01, 0.03), map(str.split, errors), strict=False):
        tried["sae", rate] = dict.fromkeys(FLAT[where], float(fvu))
    backwards = dict(reversed(tried.items()))
    assert chosen_rates(results(tried)) == chosen_rates(results(backwards)) == {(HOOK, "sae"): best}


def test_curves_that_cross_are_compared_where_they_differ_most(results):
    """0.01 is behind by a factor of 2 at high L0, and 0.003 by a factor of 1.5 at low L0."""
    tried = {
        ("sae", 0.001): {4: 0.9, 15: 0.9},
        ("sae", 0.003): {4: 0.3, 15: 0.3, 40: 0.2, 80: 0.2},
        ("sae", 0.01): {4: 0.2, 15: 0.2, 40: 0.4, 80: 0.4},
        ("sae", 0.03): {40: 0.9, 80: 0.9},
    }
    assert chosen_rates(results(tried)) == {(HOOK, "sae"): 0.003}
    tried["sae", 0.003] = {4: 0.5, 15: 0.5, 40: 0.2, 80: 0.2}
    assert chosen_rates(results(tried)) == {(HOOK, "sae"): 0.01}


def test_a_choice_without_a_comparison_is_told(results):
    apart = {("sae", 0.1): {4: 0.4, 8: 0.3}, ("sae", 0.01): {40: 0.4, 80: 0.3}}
    shared = {("codebook", rate): {4: 0.4, 16: 0.3} for rate in (0.1, 0.01)}
    rates = Lengths({50: results(apart | shared), 100: results(shared)}, {}).rates
    sae = rates.xs((50, "sae"), level=["steps", "kind"])
    assert [l0 for _, l0, _ in sae.index[sae["fvu"].notna()]] == ["5", "50"]
    assert rates_without_comparison(rates) == [
        f"sae at {HOOK} has its rate, 0.01, without a comparison after 50 steps: no two of the "
        "rates tried reach one L0."
    ]
    lengths = Lengths({50: results(apart)}, {50: results({("sae", 0.1): {4: 0.4, 16: 0.3}})})
    assert not rates_at_an_end(lengths.rates)
    assert lengths_data(lengths)["remarks"] == rates_without_comparison(lengths.rates)
    alone = Lengths({50: results({("sae", 0.1): {4: 0.4, 16: 0.2}})}, {}).rates
    assert not rates_without_comparison(alone)


def test_families_that_change_their_order_are_named(results):
    curves = {"sae": {4: 0.4, 16: 0.2}, "codebook": {4: 0.3, 16: 0.15}}
    both = {(kind, 0.1): curve for kind, curve in curves.items()}
    better = both | {("sae", 0.1): {4: 0.2, 16: 0.1}}
    lengths = Lengths({}, {50: results(both), 100: results(better), 200: results(better)})
    assert changes_of_order(lengths.pairs) == [
        "From 50 to 100 steps, sae overtakes codebook at L0 5 and 10.",
        "From 100 to 200 steps, no two families change their order significantly.",
    ]
    noisy = results(better, noise=2.0)
    through_a_tie = Lengths({}, {50: results(both), 100: noisy, 200: results(better)}).pairs
    assert changes_of_order(through_a_tie) == [
        "From 50 to 100 steps, no two families change their order significantly; "
        "not significantly, sae overtakes codebook at L0 5 and 10.",
        "From 100 to 200 steps, sae overtakes codebook at L0 5 and 10.",
    ]
    figure = lengths_figure(lengths)
    assert {trace.name for trace in figure.data} == {"sae", "codebook"}
    assert all(list(trace.x) == [50, 100, 200] for trace in figure.data)
    from_100 = {50: results({("codebook", 0.1): curves["codebook"]}), 100: results(better)}
    part = lengths_figure(Lengths({}, {**from_100, 200: results(better)})).data
    assert {trace.name: list(trace.x) for trace in part} == {
        "codebook": [50, 100, 200], "sae": [100, 200],
    }  # fmt: skip
    value = lengths.errors.loc[(50, HOOK, "fraction_variance_unexplained", 5.0, "sae"), "value"]
    assert figure.data[0].y[0] == pytest.approx(value)


def test_a_change_of_order_is_that_of_paired_differences(results):
    """Planted: the noise of the text is ten times the difference, but the families share it."""
    better, worse = {4: 0.30, 16: 0.15}, {4: 0.31, 16: 0.155}
    before = results({("sae", 0.1): better, ("ica", 0.1): worse}, noise=0.1)
    after = results({("sae", 0.1): worse, ("ica", 0.1): better}, noise=0.1)
    lengths = Lengths({}, {50: before, 100: after})
    ends = lengths.errors.loc[(50, HOOK, "fraction_variance_unexplained", 5.0)]
    assert ends.loc["ica", "low"] < ends.loc["sae", "high"], "intervals of single values overlap"
    change = "From 50 to 100 steps, ica overtakes sae at L0 5 and 10."
    assert changes_of_order(lengths.pairs) == [change]
    assert verdict(before)[0].count("sae recovers most") == 3, "and at L0 16, where both end"
    assert verdict(after)[0].count("ica recovers most") == 3
    there = Sites(Site("other", 24), Site("other", 24))
    two = [
        replace(r, dictionaries=r.dictionaries | {
            f"{name} there": replace(d, sites=there) for name, d in r.dictionaries.items()
        })
        for r in (before, after)
    ]  # fmt: skip
    both = changes_of_order(Lengths({}, dict(zip((50, 100), two, strict=True))).pairs)
    assert both == [change[:-1] + f" of {HOOK}; ica overtakes sae at L0 5 and 10 of other."]
    same = replace(before, dictionaries={
        n: d for n, d in before.dictionaries.items() if d.kind == "sae"
    })  # fmt: skip
    copies = replace(same, dictionaries=same.dictionaries | {
        f"copy of {n}": replace(d, kind="copy") for n, d in same.dictionaries.items()
    })  # fmt: skip
    (text,) = changes_of_order(Lengths({}, {50: copies, 100: copies}).pairs)
    assert text == "From 50 to 100 steps, no two families change their order significantly."


def test_tables_mark_the_chosen_rates_and_list_errors_by_length(results):
    validation = {50: results(SEARCHED), 100: results(SEARCHED)}
    chosen = {("sae", 0.01): SEARCHED["sae", 0.01],
              ("codebook", 0.001): SEARCHED["codebook", 0.001]}  # fmt: skip
    tried, errors = lengths_tables(Lengths(validation, {50: results(chosen), 100: results(chosen)}))
    assert tried.headings == ["kind", "steps", "L0", "rate 0.001", "rate 0.01", "rate 0.1"]
    row = next(row for row in tried.texts if row[:2] == ["sae", "50"])
    assert row[4].endswith(" (chosen)")
    assert row[5] == "–"
    assert [c.endswith("(chosen)") for c in row].count(True) == 1
    assert errors.headings == ["L0", "family", "50 steps", "100 steps"]
    assert {row[1] for row in errors.texts} == {"sae", "codebook"}


def test_the_table_has_a_row_for_every_set_of_rates_that_is_compared(results):
    curves = {0.001: {4: 0.2, 8: 0.2}, 0.01: {4: 0.9, 25: 0.9}, 0.1: {9: 0.1, 25: 0.1}}
    validation = results({("sae", rate): curve for rate, curve in curves.items()})
    tried, _ = lengths_tables(Lengths({1000: validation, 50: validation}, {50: validation}))
    assert tried.texts == [
        ["sae", steps, *cells]
        for steps in ("50", "1,000")
        for cells in (["5", "0.200", "0.900", "–"], ["10, 20", "–", "0.900", "0.100 (chosen)"])
    ]


def test_tables_name_hooks_where_there_are_several(results):
    found = results({("sae", 0.01): SEARCHED["sae", 0.01]})
    there = Sites(Site("other", 24), Site("other", 24))
    moved = {f"{n} at other": replace(r, sites=there) for n, r in found.dictionaries.items()}
    two = replace(found, dictionaries=found.dictionaries | moved)
    tried, errors = lengths_tables(Lengths({50: two}, {50: two, 100: two}))
    assert tried.headings == ["hook", "kind", "steps", "L0", "rate 0.01"]
    assert errors.headings == ["hook", "L0", "family", "50 steps", "100 steps"]
    for table in (tried, errors):
        assert {row[0] for row in table.texts} == {HOOK, "other"}


def test_a_choice_at_the_end_of_the_rates_compared_is_told(results):
    """Only those of the last length count: beyond them, nothing was tried after as many steps."""
    curves = {0.001: {4: 0.4, 16: 0.3}, 0.01: {4: 0.3, 16: 0.2}, 0.1: {4: 0.2, 16: 0.1}}
    tried = {("sae", rate): curve for rate, curve in curves.items()}
    best = (
        "sae at {} is best at {:g}, the {} rate compared after {} steps: one beyond it may be "
        "better still."
    )
    shorter = results(tried)
    longer = results({key: tried[key] for key in (("sae", 0.001), ("sae", 0.01))})
    ends = rates_at_an_end(Lengths({50: shorter}, {}).rates)
    assert ends == [best.format(HOOK, 0.1, "highest", 50)]
    ends = rates_at_an_end(Lengths({50: shorter, 100: longer}, {}).rates)
    assert ends == [best.format(HOOK, 0.01, "highest", 100)]
    high, low = rates_at_an_end(Lengths({50: results(SEARCHED)}, {}).rates)
    assert high == best.format(HOOK, 0.01, "highest", 50), "0.1 was tried, at other values of L0"
    assert low == best.format(HOOK, 0.001, "lowest", 50).replace("sae", "codebook")
    middle = tried | {("sae", 0.01): {4: 0.1, 16: 0.1}}
    assert not rates_at_an_end(Lengths({50: results(middle)}, {}).rates)
    alone = results({("sae", 0.1): curves[0.1]})
    assert not rates_at_an_end(Lengths({50: alone}, {}).rates)


def test_families_tie_at_their_own_rates_and_differ_at_a_common_one(results):
    """Planted: the error of a kind at L0 4 and 16 is twice its least one at a rate that is wrong by
    a factor of 10, and both kinds have the same least error, at rates that differ."""
    least = {4: 0.3, 16: 0.15}
    doubled = {l0: 2 * fvu for l0, fvu in least.items()}
    planted = {
        ("sae", 0.001): least, ("sae", 0.01): doubled,
        ("codebook", 0.001): doubled, ("codebook", 0.01): least,
    }  # fmt: skip
    rates = chosen_rates(results(planted, noise=0.02))
    own = {(kind, rate): planted[kind, rate] for (_, kind), rate in rates.items()}
    common = {key: curve for key, curve in planted.items() if key[1] == 0.001}
    (text,) = verdict(results(own, noise=0.02, seeds=(0, 1, 2)))
    assert "at a peak learning rate of 0.001 for sae; 0.01 for codebook" in text
    assert "At L0 5, " in text
    assert text.count("ties with it") == 2
    assert " less" not in text
    (text,) = verdict(results(common, noise=0.02, seeds=(0, 1, 2)))
    assert "Training: 100 steps of 512 rows, at a peak learning rate of 0.001 for" in text
    assert "At L0 5, sae recovers most" in text
    assert "codebook recovers 0.2" in text
    assert "ties" not in text
