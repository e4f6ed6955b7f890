"""Sites: equality and JSON."""

import pytest

from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites

A, B = Site("mlp.in", 2), Site("mlp.out", 3)


def test_a_width_is_positive():
    with pytest.raises(InputError, match=r"width of at least 1, got \(0,\) at \('x',\)"):
        Site("x", 0)


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
