"""Dictionaries and edits act on generated tokens, with a cache as without."""

import pytest
import torch

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.interventions.choice import Activate
from dictlearn.interventions.direction import Push
from dictlearn.interventions.edit import Clamp
from dictlearn.interventions.inside import inside
from dictlearn.lm.generation import generate
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.sites import hook_sites

IDS = torch.randint(40, (4, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 6, [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]])


@pytest.mark.parametrize("mask", [None, MASK], ids=["one length", "padded"])
@pytest.mark.parametrize("position", [0, 4, 9])
def test_edits_of_features_are_the_same_under_a_cache(native, caplog, position, mask):
    model = native(n_ctx=24).double()
    heads = hook_sites(model, "blocks.0.attn.hook_z")
    dictionaries = {
        "codes": CodebookConfig(n_codes=9, k=3, n_groups=2).build(heads).double(),
        "sae": TopKSAEConfig(n_features=20, k=4)
        .build(hook_sites(model, "blocks.0.hook_resid_post"))
        .double(),
        "transcoder": TranscoderConfig(n_features=20).build(mlp_sites(model, 1)).double(),
    }
    edits = (
        Activate(2, at="codes", positions=position),
        Clamp(3, 30.0, at="sae", positions=position),
        Push(5, 40.0, at="transcoder", positions=position),
    )

    def generated(*, cached):
        return generate(model, IDS, 16, mask=mask, seed=2, cached=cached)

    with inside(model, dictionaries, keep_error=True, edits=edits):
        edited = generated(cached=True)
        assert torch.equal(edited, generated(cached=False))
    with inside(model, dictionaries, keep_error=True):
        assert not torch.equal(edited, generated(cached=True))
    assert not caplog.text
