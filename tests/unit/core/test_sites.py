"""Sites: equality and JSON."""

import numpy as np
import pytest
import torch

from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites

A, B = Site("mlp.in", 2), Site("mlp.out", 3)


def test_a_width_is_positive():
    with pytest.raises(InputError, match=r"width of at least 1, got \(0,\) at \('x',\)"):
        Site("x", 0)


@pytest.mark.untyped
@pytest.mark.parametrize(
    "d",
    [4.0, True, np.True_, torch.tensor(4), "4", None, (4.0,), torch.tensor([4]), [torch.ones(())]],
)
def test_a_width_is_a_whole_number(d):
    with pytest.raises(InputError, match="a whole number as its width, got"):
        Site("x", d)


@pytest.mark.untyped
@pytest.mark.parametrize("hook", [None, 3, [3], ["x", None]])
def test_a_hook_is_a_name(hook):
    with pytest.raises(InputError, match="a site needs"):
        Site(hook, [4])


@pytest.mark.untyped
def test_widths_of_numpy_are_plain_numbers():
    assert Site("x", np.int64(3)) == Site("x", 3)
    joined = Site(["x", "y"], np.array([3, 4]))
    assert joined.widths == (3, 4)
    assert all(type(d) is int for d in joined.widths)
    assert Site.from_dict(joined.to_dict()) == joined


def test_one_hook_of_two_widths_is_not_joined():
    assert Site.joined([A, B, A]) == Site(("mlp.in", "mlp.out"), (2, 3))
    with pytest.raises(InputError, match=r"one width at 'mlp\.in', got 2 and 5"):
        Site.joined([A, Site("mlp.in", 5)])


@pytest.mark.untyped
def test_activations_of_another_width_are_not_split():
    site = Site.joined([A, B])
    assert [part.shape for part in site.split(torch.zeros(4, 5))] == [(4, 2), (4, 3)]
    for x in (torch.zeros(4, 6), torch.zeros(4), torch.zeros(())):
        with pytest.raises(InputError, match=r"width 5 \(mlp\.in \+ mlp\.out\), got shape"):
            site.split(x)


def test_autoencoder_and_transcoder():
    assert Sites(A, A).is_autoencoder
    assert not Sites(A, B).is_autoencoder
    assert Sites(A, A).hooks == ("mlp.in",)
    assert Sites(A, B).hooks == ("mlp.in", "mlp.out")
    assert Sites(A, B).at_target() == Sites(B, B)
    assert str(Sites(A, A)) == "mlp.in"
    assert str(Sites(A, B)) == "mlp.in -> mlp.out"


def test_one_hook_of_two_widths_is_no_autoencoder():
    assert not Sites(A, Site("mlp.in", 3)).is_autoencoder
