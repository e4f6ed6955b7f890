"""Families at equal rates, against interpolation by hand."""

import math
from dataclasses import replace

import pytest
import torch

from dictlearn.comparison.statistics.families import at_rate, families
from dictlearn.comparison.statistics.interpolation import Family, shared_values, values_by_sharers
from dictlearn.comparison.statistics.intervals import differences_frame, holm, intervals_frame
from dictlearn.comparison.statistics.matched import matched_frame, pairs_frame
from dictlearn.comparison.statistics.standings import matched_rows
from dictlearn.comparison.vocabulary import by_target
from dictlearn.core.errors import InputError
from dictlearn.core.metric import Metric
from dictlearn.metrics.bits import QUANTIZED
from dictlearn.metrics.pooled import pooled_metrics
from dictlearn.records.results import Records

HOOK = "blocks.0.hook_mlp_out"
FVU = "fraction_variance_unexplained"


def noisy(record, seed, scale=0.05):
    """The record with errors and losses that differ between 40 sequences; totals nearly stay."""
    generator = torch.Generator().manual_seed(seed)
    sums = {name: s[:1].repeat(40) for name, s in record.sums.items()}
    for name in ("squared_error", "cross_entropy_spliced"):
        sums[name] *= 1 + scale * torch.randn(40, generator=generator, dtype=torch.float64)
    metrics = pooled_metrics({name: s.sum() for name, s in sums.items()}, record.density)
    return replace(record, sums=sums, metrics=metrics)


def priced(record, bits):
    sums = record.sums | {"bits": bits * record.sums["rows"]}
    return replace(record, metrics=record.metrics | {"bits": Metric(bits)}, sums=sums)


@pytest.fixture
def of(records):
    return lambda found: Records(records.provenance, records.tokens, found)


@pytest.fixture
def pair(make, of):
    """Two families: at L0 8 the FVU of one is 0.3, that of the other 0.35."""
    return of(
        {
            "a4": make("a", l0=4, fvu=0.4, spliced=2.8),
            "a16": make("a", l0=16, fvu=0.2, spliced=2.4),
            "b4": make("b", l0=4, fvu=0.5, spliced=2.8),
            "b16": make("b", l0=16, fvu=0.2, spliced=2.6),
            "single": make("c", l0=8, fvu=0.3),
        }
    )


def test_a_metric_is_linear_in_the_logarithm_of_the_rate(pair):
    frame = matched_frame(pair, "l0", [8, 4, 16]).droplevel("hook")
    assert frame.loc[(FVU, 8, "a"), "value"] == pytest.approx(0.3)
    assert frame.loc[(FVU, 8, "b"), "value"] == pytest.approx(0.35)
    assert frame.loc[("loss_recovered_zero", 8, "a"), "value"] == pytest.approx(0.7)
    assert frame.loc[(FVU, 8, "b"), "difference"] == pytest.approx(0.05)
    assert frame.loc[(FVU, 8, "a"), "difference"] == 0
    assert frame.loc[(FVU, 4, "b"), "value"] == pytest.approx(0.5)
    assert frame.loc[(FVU, 16, "a"), "value"] == pytest.approx(0.2)


def test_nothing_is_extrapolated(pair):
    frame = matched_frame(pair, "l0", [2, 8, 20], [FVU]).droplevel(["hook"])
    outside = frame.loc[[(FVU, 2, "a"), (FVU, 20, "b"), (FVU, 2, "c")]]
    assert outside["value"].isna().all()
    assert outside["p"].isna().all()
    assert frame.loc[(FVU, 2, "a"), "reason"] == "outside the rates measured, 4 to 16"
    assert "one rate only" in frame.loc[(FVU, 2, "c"), "reason"]
    assert frame.loc[(FVU, 8, "c"), "value"] == pytest.approx(0.3)
    assert frame.loc[(FVU, 8, "c"), "reason"] == ""


def test_at_a_rate_that_was_measured_intervals_are_those_of_the_dictionaries(pair, of):
    pair = of({n: noisy(r, i) for i, (n, r) in enumerate(pair.dictionaries.items())})
    frame = matched_frame(pair, "l0", [4], [FVU]).loc[(HOOK, FVU, 4)]
    alone = intervals_frame(pair).loc[("a4", FVU)]
    assert frame.loc["a", ["value", "low", "high"]].tolist() == pytest.approx(alone.tolist())
    apart = differences_frame(pair, FVU, "a4").loc["b4"]
    found = frame.loc["b", ["difference", "difference_low", "difference_high", "p"]]
    assert found.tolist() == pytest.approx(apart[["value", "low", "high", "p"]].tolist())


def test_a_worse_family_differs_significantly_and_a_copy_does_not(make, of):
    rates = (4, 16)
    own = {f"a{k}": noisy(make("a", l0=k, fvu=0.3), k) for k in rates}
    copy = {f"b{k}": replace(own[f"a{k}"], kind="b") for k in rates}
    worse = {f"c{k}": noisy(make("c", l0=k, fvu=0.5), k) for k in rates}
    frame = matched_frame(of(own | copy | worse), "l0", [8], [FVU])
    a, b, c = (row for _, row in frame.iterrows())
    assert (a.difference, b.difference) == (0, 0)
    assert (b.difference_low, b.difference_high, b.p) == (0, 0, 1)
    assert c.difference_low > 0
    assert c.p_holm == 3 * c.p < 0.025, "of three pairs, the two shown count as if last"
    row_a, row_b, row_c = matched_rows(frame)
    assert row_a.standings[FVU].is_best
    assert not row_b.standings[FVU].significant
    assert row_c.standings[FVU].significant


def test_every_pair_of_families_has_its_difference(make, of):
    """With the best family, that of `matched_frame`; of all others, by interpolation by hand."""
    found = {f"{kind}{k}": noisy(make(kind, l0=k, fvu=fvu), i)
             for i, (kind, k, fvu) in enumerate((kind, k, fvu)
             for kind, fvu in (("a", 0.5), ("b", 0.3), ("c", 0.4)) for k in (4, 16))}  # fmt: skip
    found["single"] = noisy(make("d", l0=4), 6)
    pairs = pairs_frame(of(found), [4, 8], FVU)
    assert [key[1:] for key in pairs.index if key[1] == 8] == [
        (8, "a", "b"), (8, "a", "c"), (8, "b", "c")]  # fmt: skip
    assert len(pairs) == 3 + 6, "with the single one at its own rate"
    best = matched_frame(of(found), "l0", [4, 8], [FVU]).loc[(HOOK, FVU, 8)]
    columns = ["difference", "difference_low", "difference_high", "p"]
    known = best.loc["a", columns].tolist()
    there = pairs.loc[(HOOK, 8)]
    assert there.loc[("a", "b"), ["value", "low", "high", "p"]].tolist() == pytest.approx(known)
    assert there.loc[("a", "c"), "value"] == pytest.approx(
        best.loc["a", "difference"] - best.loc["c", "difference"]
    )
    expected = holm(dict(pairs["p"]))
    assert dict(pairs["p_holm"]) == pytest.approx(expected)
    assert pairs_frame(of({}), [4], FVU).empty


def five_equal_families(make, seed, n_seeds):
    """Whose errors differ by chance only: over sequences, and over training seeds."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for kind in "abcde":
        for run in range(n_seeds):
            luck = 0.01 * torch.randn((), generator=generator).item() if n_seeds > 1 else 0.0
            for k in (4, 16):
                record = make(kind, l0=k, fvu=0.3 + luck, seed=run)
                found[f"{kind}{run}-{k}"] = noisy(
                    record, int(torch.randint(1 << 30, (), generator=generator))
                )
    return found


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_equal_families_hardly_ever_differ_significantly(make, of, n_seeds):
    """Though the best is picked on the same tokens: in at most one verdict of twenty, or so."""
    wrong = 0
    for seed in range(30):
        found = of(five_equal_families(make, seed, n_seeds))
        frame = matched_frame(found, "l0", [5, 10], [FVU])
        wrong += any(row.standings[FVU].significant for row in matched_rows(frame))
    assert wrong <= 3


def test_seeds_are_interpolated_apart_and_then_averaged(make, of):
    found = {}
    for seed, shift in ((0, -0.05), (1, 0.0), (2, 0.05)):
        found |= {f"a{seed}-4": make("a", l0=4, fvu=0.4 + shift, seed=seed),
                  f"a{seed}-16": make("a", l0=16, fvu=0.2 + shift, seed=seed)}  # fmt: skip
    (row,) = matched_frame(of(found), "l0", [8], [FVU]).to_dict("records")
    assert row["value"] == pytest.approx(0.3)
    assert row["seed_sd"] == pytest.approx(0.05)
    assert row["n_seeds"] == 3


def test_a_seed_with_one_dictionary_joins_the_others_in_one_curve(make, of):
    found = of({"x": make("a", l0=4, seed=0), "y": make("a", l0=16, seed=1)})
    assert families(found, "l0") == {"a": [("x", "y")]}
    both = of({**found.dictionaries, "z": make("a", l0=8, seed=0), "w": make("a", l0=2, seed=1)})
    assert families(both, "l0") == {"a": [("w", "y"), ("x", "z")]}


def test_the_range_is_what_all_seeds_share():
    family = Family([{2.0: {}, 8.0: {}}, {4.0: {}, 16.0: {}}], "l0")
    assert family.range == (4.0, 8.0)
    assert family.missing(3.0) == "outside the rates measured, 4 to 8"
    assert family.missing(5.0) == ""


def test_dictionaries_of_one_rate_are_averaged(make, of):
    found = of({"x": make("a", l0=4, fvu=0.3), "y": make("a", l0=4, fvu=0.5)})
    frame = matched_frame(found, "l0", [4], [FVU])
    assert frame["value"].tolist() == [pytest.approx(0.4)]


def test_families_at_several_sites_and_hooks_are_kept_apart(make, of):
    found = of(
        {
            "x": make("a", l0=4), "y": make("a", l0=4, source="blocks.0.in"),
            "z": make("a", l0=4, hook="blocks.1.hook_mlp_out"), "none": make("m", l0=0),
        }
    )  # fmt: skip
    assert list(by_target(found)) == [HOOK, "blocks.1.hook_mlp_out"]
    (plain, other) = families(by_target(found)[HOOK], "l0")
    assert plain.startswith("a at")
    assert "blocks.0.in" in other
    frame = matched_frame(found, "l0", [4], [FVU])
    assert len(frame) == 3
    assert set(frame.index.get_level_values("hook")) == set(by_target(found))


def test_values_are_round_and_where_most_families_meet(pair, make, of):
    frame = matched_frame(pair)
    assert set(frame.index.get_level_values("at")) == {5.0, 8.0, 10.0}, "and where a baseline is"
    wide = Family([{1.0: {}, 1e4: {}}], "l0")
    assert shared_values([wide, wide]) == [1.0, 20.0, 500.0, 10000.0]
    assert shared_values([wide]) == shared_values([]) == []
    assert shared_values([wide, Family([{30.0: {}, 40.0: {}}], "l0")]) == []
    assert matched_frame(of({"x": make("a")})).empty
    assert matched_frame(of({})).empty


def test_a_baseline_is_compared_at_the_largest_rate_that_it_shares(make, of):
    """Also where most families end before it, and where it ends before them."""
    found = {f"{kind}{k}": make(kind, l0=k) for kind, ks in (("a", (4, 16)), ("b", (4, 33)))
             for k in ks}  # fmt: skip

    def values(**baseline):
        own = {name: make("pca", l0=l0) for name, l0 in baseline.items()}
        return sorted(set(matched_frame(of(found | own)).index.get_level_values("at")))

    assert values(x=5, y=32) == [5, 10, 32]
    assert values(x=5, y=64) == [5, 10, 33]
    assert values(x=5, y=9.95) == [5, 9.95], "10 reads as the same"
    assert values(x=40, y=64) == [5, 10], "no trained family reaches it"


def test_values_are_listed_for_every_largest_set_of_families_that_shares_them():
    ends = {"a": (4, 25), "b": (4, 120), "c": (40, 300), "inside b": (4, 15), "between": (11, 19)}
    found = {name: Family([{float(at): {} for at in of}], "l0") for name, of in ends.items()}
    assert values_by_sharers(found) == {
        frozenset({"a", "b", "inside b"}): [5.0, 10.0],
        frozenset({"b", "c"}): [50.0, 100.0],
    }
    single = Family([{20.0: {}}], "l0")
    assert values_by_sharers({"a": found["a"], "single": single}) == {
        frozenset({"a", "single"}): [20.0]
    }
    wide = {name: Family([{1.0: {}, 1e4: {}}], "l0") for name in "xyz"}
    assert values_by_sharers(wide) == {frozenset("xyz"): shared_values(wide.values())}
    assert values_by_sharers({}) == values_by_sharers({"between": found["between"]}) == {}


def test_bits_are_a_rate_where_they_are_known(pair, of):
    bits = {"a4": 40.0, "a16": 90.0, "b4": 20.0, "b16": 80.0}
    found = of({n: priced(r, bits[n]) if n in bits else r for n, r in pair.dictionaries.items()})
    frame = matched_frame(found, "bits", [60], [FVU]).loc[(HOOK, FVU, 60)]
    part = math.log(60 / 40) / math.log(90 / 40)
    assert frame.loc["a", "value"] == pytest.approx(0.4 - 0.2 * part)
    assert list(frame.index) == ["a", "b"]
    assert matched_frame(pair, "bits").empty


def test_at_equal_bits_the_quality_is_what_the_bits_buy(pair, of):
    """With quantized coefficients, errors are 1.5 times those without, and so is the FVU."""
    found = {}
    for name in ("a4", "a16", "b4", "b16"):
        record = pair.dictionaries[name]
        lossy = {"quantized_squared_error": 1.5 * record.sums["squared_error"]}
        found[name] = priced(replace(record, sums=record.sums | lossy), 10.0 * name.count("6") + 30)
    at_bits = matched_frame(of(found), "bits", [30, 40], [FVU]).droplevel("hook")
    assert at_bits.loc[(FVU, 30, "a"), "value"] == pytest.approx(1.5 * 0.4)
    assert at_bits.loc[(FVU, 40, "a"), "value"] == pytest.approx(1.5 * 0.2)
    assert at_bits.loc[(FVU, 30, "b"), "difference"] == pytest.approx(1.5 * 0.1)
    at_l0 = matched_frame(of(found), "l0", [4], [FVU]).droplevel("hook")
    assert at_l0.loc[(FVU, 4, "a"), "value"] == pytest.approx(0.4)


def test_records_that_do_not_say_what_their_bits_buy_have_no_bits(pair, of):
    """Those of an earlier version: their quality is that without quantization."""
    old = {
        name: priced(
            replace(r, sums={k: s for k, s in r.sums.items() if k not in QUANTIZED.values()}), 40.0
        )
        for name, r in pair.dictionaries.items()
    }
    found = at_rate(of(old), "bits").dictionaries
    assert all("evaluate again" in record.metrics["bits"].reason for record in found.values())
    assert matched_frame(of(old), "bits").empty
    assert at_rate(of(old), "l0").dictionaries == old


def test_an_undefined_metric_has_its_reason(make, of):
    found = of({f"{kind}{k}": make(kind, l0=k, zero=2.0) for kind in "ab" for k in (4, 16)})
    frame = matched_frame(found, "l0", [8], ["loss_recovered_zero"])
    assert frame["value"].isna().all()
    assert frame["reason"].str.contains("nothing to recover").all()
    assert matched_rows(frame) == []


def test_unknown_rates_and_metrics_are_refused(pair):
    with pytest.raises(InputError, match="'l0' or 'bits'"):
        matched_frame(pair, "l1")
    with pytest.raises(InputError, match="resampled"):
        matched_frame(pair, metrics=["dead_fraction"])
