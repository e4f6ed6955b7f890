"""What every source of activations shares: choosing sites, and finding a bad row."""

import math

import pytest
import torch

from dictlearn.core.batches import Activations, Rows, first_bad_row, require_finite
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites, only

A, B, C = Site("a", 2), Site("b", 3), Site("c", 4)
OFFERED = (Sites(A, A), Sites(A, B), Sites(C, C))


class Counting(Activations):
    """Row i of a step holds its own number at every hook."""

    def __init__(self, sites=OFFERED):
        self.sites, self.n_rows = sites, 10
        self.provenance = Provenance(model="counting")

    def rows(self, seed, step, n):
        number = torch.arange(step * n, step * n + n, dtype=torch.float32).unsqueeze(1)
        return Rows({site.hook: number.expand(n, site.d) for site in (A, B, C)})


def test_only_sites():
    assert only(OFFERED[:1]) == OFFERED[0]
    with pytest.raises(InputError, match=r"offer 3 sites \(a; a -> b; c\).*select"):
        only(OFFERED)


def test_select_is_a_view_of_the_same_rows():
    selected = Counting().select(Sites(C, B))  # never offered as a pair, but both were harvested
    assert selected.sites == (Sites(C, B),)
    assert (selected.n_rows, selected.provenance.model) == (10, "counting")
    rows = selected.rows(seed=0, step=2, n=3)
    assert list(rows.at) == ["c", "b"]
    assert rows.at["b"][:, 0].tolist() == [6.0, 7.0, 8.0]
    assert selected.locate(0, 2, 3, 1) == "row 1 of the batch of step 2"


@pytest.mark.parametrize("site", [Site("d", 2), Site("a", 3)])
def test_sites_that_were_not_harvested(site):
    for sites in (Sites(site, A), Sites(A, site)):
        with pytest.raises(InputError, match=rf"harvested \(a, b, c\), got '{site.hook}'"):
            Counting().select(sites)


def test_batches_of_an_autoencoder_share_their_tensor():
    rows = Counting().rows(0, 0, 4)
    same = rows.batch(Sites(A, A))
    assert same.x is same.y
    other = rows.batch(Sites(A, B))
    assert (other.x.shape, other.y.shape) == ((4, 2), (4, 3))
    assert len(rows) == 4
    assert rows.to(torch.device("cpu"), torch.float64).at["a"].dtype == torch.float64


def test_first_bad_row():
    x = torch.zeros(5, 3)
    assert first_bad_row(x) is None
    assert first_bad_row(x[:0]) is None
    x[3, 1] = math.inf
    x[4, 0] = math.nan
    assert first_bad_row(x) == 3
    x[1, 2] = -math.inf  # opposite infinities: the sum is nan
    assert first_bad_row(x) == 1


def test_finite_rows_whose_sum_overflows_are_good():
    x = torch.full((4, 2), torch.finfo(torch.float32).max)
    assert not torch.isfinite(x.sum())
    assert first_bad_row(x) is None
    assert first_bad_row(x.bfloat16().fill_(3e38)) is None


def test_require_finite_names_place_and_row():
    x = torch.ones(3, 2)
    require_finite(x, "here")
    x[2, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"here: .* row 2"):
        require_finite(x, "here")


@pytest.mark.untyped
@pytest.mark.parametrize("wrong", [list(OFFERED), OFFERED[0].source, "x", None])
def test_only_sites_are_selected(wrong):
    with pytest.raises(InputError, match="required one Sites out of those harvested"):
        Counting().select(wrong)
