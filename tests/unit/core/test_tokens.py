"""Tokens in a notebook."""

import torch

from dictlearn.core.tokens import Tokens


def test_tokens_say_how_many_they_are_and_where_from():
    ids = torch.zeros(2, 3, dtype=torch.long)
    tokens = Tokens(ids, ids == 0, source="a.txt", split="train", hash="")
    assert repr(tokens) == "Tokens(6 in 2 sequences of 3, train split of a.txt)"
