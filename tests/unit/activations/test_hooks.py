import pytest
import torch

from dictlearn.activations.hooks import hook_widths, require_hooks
from dictlearn.core.batches import Rows
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Site, Sites

A, B = Site("a", 2), Site("b", 3)


def test_hooks_of_several_sites_are_distinct_and_in_order():
    assert list(hook_widths([Sites(B, B), Sites(A, B)]).items()) == [("b", 3), ("a", 2)]


def test_a_hook_of_two_widths_is_refused():
    with pytest.raises(InputError, match="one width at 'a', got 2 and 5"):
        hook_widths([Sites(A, B), Sites(Site("a", 5), B)])


def test_no_sites_are_refused():
    with pytest.raises(InputError, match="at least one pair of sites"):
        hook_widths([])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"a": torch.ones(4, 2)}, "required rows at a, b, got none at b"),
        ({"a": torch.ones(4, 2), "b": torch.ones(4, 2)}, r"\(4, 3\) at hook 'b', got \(4, 2\)"),
        ({"a": torch.ones(4, 2), "b": torch.ones(3, 3)}, r"\(4, 3\) at hook 'b', got \(3, 3\)"),
    ],
)
def test_rows_that_do_not_fit_are_named(at, message):
    with pytest.raises(InputError, match=message):
        require_hooks(Rows(at), {"a": 2, "b": 3})
