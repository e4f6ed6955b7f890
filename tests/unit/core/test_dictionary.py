"""Arguments of a dictionary's methods that have the wrong shape are named."""

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError

DICTIONARY = dl.SAEConfig(n_features=8).build(dl.Sites(dl.Site("x", 4), dl.Site("x", 4)))

pytestmark = pytest.mark.untyped


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda d: d.encode(torch.zeros(2, 5)), r"width 4 \(hook 'x'\), got shape \(2, 5\)"),
        (lambda d: d.encode(torch.zeros(())), "width 4"),
        (lambda d: d.encode_sparse(torch.zeros(1, 2, 4)), r"a matrix of rows, got shape"),
        (lambda d: d.scores(torch.zeros(4), torch.tensor([0])), r"a matrix of rows, got shape"),
        (lambda d: d.reading(torch.zeros(2, 4), torch.tensor([0])), "one feature for each"),
        (lambda d: d.reading(torch.zeros(1, 4), torch.tensor([-1])), "features from 0"),
        (lambda d: d.reading(torch.zeros(1, 4), torch.tensor([10**9])), "features from 0"),
        (lambda d: d.decode(torch.zeros(2, 7)), "required 8 coefficients per row, got 7"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(act, words):
    with pytest.raises(InputError, match=words):
        act(DICTIONARY)
