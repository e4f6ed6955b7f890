"""A few rows with norms of hundreds of times the median (Sun et al. 2024)."""

import logging
from dataclasses import dataclass, replace

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.massive import beyond, massive, massive_rows, norm_limit
from dictlearn.core.sites import Site, Sites
from dictlearn.training.batches import RunBatches, as_activations
from dictlearn.training.checkpoints import differences
from dictlearn.training.standardize import fit_units

N, D = 8_000, 16
G = torch.Generator().manual_seed(0)
CODES = (torch.rand(N, 32, generator=G) < 0.1) * torch.rand(N, 32, generator=G)
CLEAN = CODES @ torch.randn(32, D, generator=G) + torch.randn(D, generator=G)
MASSIVE = torch.arange(3, N, 1_000)  # 0.1 % of the rows
DIRTY = CLEAN.clone()
DIRTY[MASSIVE] *= 300 * CLEAN.norm(dim=1).median() / CLEAN[MASSIVE].norm(dim=1, keepdim=True)
SITE = Site("x", D)
RUN = dl.FitConfig(steps=200, batch_size=500, learning_rate=3e-3, standardize_rows=N)
SAE = dl.SAEConfig(n_features=64, l1_coefficient=2e-2)


def quality(dictionary):
    """L0 and FVU on the rows that are not massive."""
    ordinary = torch.ones(N, dtype=torch.bool)
    ordinary[MASSIVE] = False
    x = CLEAN[ordinary]
    error = (x - dictionary(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
    return dictionary.encode_sparse(x).l0().float().mean().item(), error.item()


def test_the_limit_is_a_multiple_of_the_median_norm():
    x = torch.ones(20, 4) * torch.arange(1, 21).unsqueeze(1)
    assert norm_limit(x, 3.0) == 3 * 2 * 10
    assert norm_limit(x[:15]) == float("inf"), "too few for a median"
    assert norm_limit(torch.cat([x, torch.zeros(100, 4)]), 3.0) == 60, "zero rows do not count"
    assert beyond(x, 30.0).tolist() == [2 * k > 30 for k in range(1, 21)]


def test_scale_is_that_of_the_other_rows_and_unchanged_where_none_is_massive():
    others = DIRTY[~torch.isin(torch.arange(N), MASSIVE)]
    clean, dirty = fit_units(SITE, CLEAN.split(500)), fit_units(SITE, DIRTY.split(500))
    expected = others.var(dim=0, correction=0).mean().sqrt()
    torch.testing.assert_close(dirty.scale, expected)
    torch.testing.assert_close(dirty.mean, others.mean(dim=0))
    assert (dirty.n_massive, dirty.n_rows, clean.n_massive) == (8, N, 0)
    total = (DIRTY - others.mean(dim=0)).square().sum()
    share = (DIRTY[MASSIVE] - others.mean(dim=0)).square().sum() / total
    assert dirty.massive_share == pytest.approx(float(share), rel=1e-4)
    assert clean.massive_share == 0


def test_an_sae_at_default_settings_is_nearly_as_good_as_without_them(caplog):
    l0, fvu = quality(dl.fit(SAE, CLEAN, RUN, progress=False))
    assert not caplog.text
    dirty_l0, dirty_fvu = quality(dl.fit(SAE, DIRTY, RUN, progress=False))
    assert abs(dirty_l0 - l0) < 0.2 * l0
    assert dirty_fvu < 2 * fvu
    assert "8 of the first 8000 rows at 'x' have norms over 10 times the median" in caplog.text
    assert "% of the variance" in caplog.text


def test_left_out_rows_are_never_learned_from_and_their_number_is_kept(caplog, tmp_path):
    run = replace(RUN, max_norm_ratio=10.0)
    l0, fvu = quality(dl.fit(SAE, CLEAN, RUN, progress=False))
    left = dl.fit(SAE, DIRTY, run, out=tmp_path, progress=False)
    assert quality(left) == pytest.approx((l0, fvu), rel=0.02)
    assert not caplog.text
    told = dl.load(tmp_path).provenance.training
    assert told["left_out"]["x"].startswith("8 of the first 8000 rows, with norms over ")
    assert told["fit_config"]["max_norm_ratio"] == 10
    batches = RunBatches(as_activations(DIRTY), run)
    batches.leave_out({"x": 50.0}, [Sites(SITE, SITE)])
    for step in range(16):
        assert batches.at(Sites(SITE, SITE), step).x.norm(dim=1).max() <= 50


@dataclass(frozen=True)
class Rank:
    """A process group as far as a batch needs it."""

    rank: int
    world_size: int


def pair(x, y):
    """Batches of a transcoder's sites, at which rows are left out."""
    batches = RunBatches(as_activations((x, y)), replace(RUN, max_norm_ratio=10.0))
    at = as_activations((x, y)).sites[0]
    return batches, at


@pytest.mark.untyped  # a stand-in for a process group
def test_processes_that_divide_a_batch_learn_from_the_rows_of_one():
    batches, at = pair(DIRTY, 2 * DIRTY)
    batches.leave_out(dict.fromkeys(at.hooks, 50.0), [at])
    for step in range(3):
        whole = batches.at(at, step)
        assert torch.equal(2 * whole.x, whole.y), "x and y of a spare row belong together"
        for rank in range(2):
            rows = batches.rows(step).of(rank, 2)
            part = batches.batch(rows, at, step, Rank(rank, 2))
            assert torch.equal(part.x, whole.x[rank::2])
            assert torch.equal(part.y, whole.y[rank::2])


def test_a_dictionary_at_another_hook_keeps_the_rows():
    batches, at = pair(DIRTY, CLEAN)
    batches.leave_out(dict.fromkeys(at.hooks, 50.0), [at, at.at_target()])
    rows = batches.rows(0)
    assert torch.equal(batches.batch(rows, at.at_target(), 0).x, rows.at[at.target.hook])
    assert not torch.equal(batches.batch(rows, at, 0).y, rows.at[at.target.hook])


@pytest.mark.parametrize("batch_size", [1, 8, 500])
def test_small_batches_have_a_median_as_well(batch_size):
    units = fit_units(SITE, DIRTY.split(batch_size))
    assert (units.n_massive, units.n_rows) == (8, N)
    torch.testing.assert_close(units.scale, fit_units(SITE, [DIRTY]).scale)


def test_a_large_ratio_leaves_out_less_and_is_warned_of(caplog):
    """Rows that stay in training are no part of mean and scale."""
    found = dl.fit(SAE, DIRTY, replace(RUN, steps=1, max_norm_ratio=1e5), progress=False)
    torch.testing.assert_close(found.x_scale, fit_units(SITE, [DIRTY]).scale)
    assert "% of the variance" in caplog.text
    assert found.provenance.training["left_out"]["x"].startswith("0 of the first 8000 rows")


def test_a_ratio_may_be_written_with_or_without_a_point():
    assert not differences({"a": [10, (1, 2)]}, {"a": [10.0, [1, 2]]})
    assert differences({"a": {"b": 10}}, {"a": {"b": 11}}) == ["a.b"]


def test_rows_that_are_massive_at_one_of_two_hooks_are_so_at_both():
    site = Site(("large", "x"), (D, D))
    both = torch.cat([1000 * torch.randn(N, D, generator=G), DIRTY], dim=1)
    assert massive(both, site).nonzero()[:, 0].tolist() == MASSIVE.tolist()
    assert massive_rows(both, torch.arange(N) // 800, site).sum() == len(MASSIVE)
    assert not massive(both, Site("joined", 2 * D)).any()


@pytest.mark.parametrize("ratio", [1.0, float("inf"), float("nan")])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ConfigError, match="max_norm_ratio must be over 1"):
        dl.FitConfig(max_norm_ratio=ratio)
    batches = RunBatches(as_activations(DIRTY), RUN)
    with pytest.raises(InputError, match="leaves no row"):
        batches.leave_out({"x": 0.0}, [Sites(SITE, SITE)])


def test_ica_is_scaled_without_them(caplog):
    caplog.set_level(logging.ERROR)
    config = dl.ICAConfig()
    one, other = (dl.fit(config, x, RUN, progress=False).x_scale for x in (CLEAN, DIRTY))
    torch.testing.assert_close(one, other, rtol=0.01, atol=0)
