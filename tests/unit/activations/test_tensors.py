import pytest
import torch
from jaxtyping import TypeCheckError

from dictlearn.activations.tensors import TensorActivations
from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

X = torch.arange(20.0).reshape(10, 2)
Y = torch.cat([X, -X], dim=1)


def test_rows_stay_aligned_and_an_epoch_is_complete():
    rows = TensorActivations(X, Y).rows(seed=1, step=0, n=10)
    assert torch.equal(rows.at["y"], torch.cat([rows.at["x"], -rows.at["x"]], dim=1))
    assert torch.equal(rows.at["x"].sort(dim=0).values, X)
    assert not torch.equal(rows.at["x"], X)


def test_batches_are_pure_and_cut_one_walk():
    activations = TensorActivations(X)
    first = activations.rows(0, 0, 3).at["x"]
    later = activations.rows(0, 1, 3).at["x"]
    assert torch.equal(activations.rows(0, 0, 3).at["x"], first)
    assert torch.equal(activations.rows(0, 0, 6).at["x"], torch.cat([first, later]))
    assert not torch.equal(activations.rows(1, 0, 3).at["x"], first)


def test_more_rows_than_there_are_reach_into_the_next_epoch():
    rows = TensorActivations(X).rows(0, 0, 25).at["x"]
    values, counts = rows[:20].unique(dim=0, return_counts=True)
    assert torch.equal(values, X)
    assert counts.tolist() == [2] * 10


def test_sites_of_an_autoencoder_and_of_a_transcoder():
    x, y = Site("x", 2), Site("y", 4)
    assert TensorActivations(X).sites == (Sites(x, x),)
    assert TensorActivations(X, X).sites == (Sites(x, x),)
    assert TensorActivations(X, Y).sites == (Sites(x, y),)
    batch = TensorActivations(X).rows(0, 0, 4).batch(Sites(x, x))
    assert batch.y is batch.x


def test_explicit_sites_name_the_hooks():
    sites = Sites(Site("blocks.0.in", 2), Site("blocks.0.out", 4))
    activations = TensorActivations(X, Y, sites=sites, provenance=Provenance(model="toy"))
    assert activations.sites == (sites,)
    assert list(activations.rows(0, 0, 1).at) == ["blocks.0.in", "blocks.0.out"]
    assert activations.provenance.model == "toy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(dtype):
    assert TensorActivations(X.to(dtype)).rows(0, 0, 4).at["x"].dtype == dtype


def test_locate_names_the_row():
    activations = TensorActivations(X)
    for row, value in enumerate(activations.rows(7, 2, 6).at["x"]):
        number = int(activations.locate(7, 2, 6, row).split()[1])
        assert torch.equal(X[number], value)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.ones(3), None),
        (torch.ones(2, 3, 4), None),
        (torch.ones(0, 4), None),
        (torch.ones(4, 0), None),
        (torch.ones(4, 2, dtype=torch.long), None),
        (X, Y[:9]),
        (X, torch.ones(10)),
    ],
)
def test_tensors_that_are_not_aligned_rows_are_refused(x, y):
    with pytest.raises((InputError, TypeCheckError), match=r"required|Type-check"):
        TensorActivations(x, y)


def test_sites_that_do_not_fit_are_refused():
    x, y = Site("x", 2), Site("y", 4)
    with pytest.raises(InputError, match="x -> y require x and y, got x"):
        TensorActivations(X, sites=Sites(x, y))
    with pytest.raises(InputError, match="x require x alone, got both"):
        TensorActivations(X, Y, sites=Sites(x, x))
    with pytest.raises(InputError, match=r"required rows of width 3 at 'x', got 2"):
        TensorActivations(X, sites=Sites(Site("x", 3), Site("x", 3)))


def test_a_row_that_is_not_finite_is_named():
    y = Y.clone()
    y[6, 1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"y: .* row 6"):
        TensorActivations(X, y)


def test_activations_say_how_many_rows_they_have_and_where():
    activations = TensorActivations(X, Y)
    assert repr(activations) == f"TensorActivations(10 rows at {activations.sites[0]})"
