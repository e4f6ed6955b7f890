"""What harvesting makes of the sites and tokens that it is given."""

from dataclasses import replace

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError
from dictlearn.core.tokens import Tokens

OUT = "blocks.0.mlp.hook_out"


@pytest.fixture(scope="module")
def model(native):
    return native()


@pytest.fixture
def tokens(ids):
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), source="", split="", hash="")


def test_a_repeated_pair_counts_once(model, tokens, tmp_path):
    pair, other = dl.mlp_sites(model, 0), dl.hook_sites(model, OUT)
    for out in (None, tmp_path):
        rows = dl.harvest(model, tokens, [pair, other, pair], out, progress=False)
        assert rows.sites == (pair, other)
    twice = dl.harvest(model, tokens, [pair, pair])
    run = dl.FitConfig(steps=1, batch_size=8, standardize_rows=8)
    assert dl.fit(dl.TranscoderConfig(n_features=8), twice, run, progress=False).sites == pair


def test_one_pair_under_two_names_is_refused(model, tokens):
    pair, alias = (dl.hook_sites(model, hook) for hook in (OUT, "blocks.0.hook_mlp_out"))
    with pytest.raises(InputError, match="names of the same hooks"):
        dl.harvest(model, tokens, [pair, alias])
    assert len(dl.harvest(model, tokens, [dl.mlp_sites(model, 0), alias]).sites) == 2


def test_text_of_special_tokens_alone_is_refused(model, tokens, tmp_path):
    special = replace(tokens, ordinary=torch.zeros_like(tokens.ordinary))
    for out in (None, tmp_path):
        with pytest.raises(InputError, match="at least one non-special token, got none among 36"):
            dl.harvest(model, special, dl.mlp_sites(model, 0), out)
    sites = dl.mlp_sites(model, 0)
    assert dl.harvest(model, special, sites, exclude_special=False).n_rows == 36


@pytest.mark.untyped
@pytest.mark.parametrize("sites", [3, None, OUT, [OUT], []])
def test_sites_of_another_type_are_named(model, tokens, sites):
    with pytest.raises(InputError, match="harvest needs Sites"):
        dl.harvest(model, tokens, sites)
