"""Dictionaries and edits act on generated tokens, with a cache as without."""

import pytest
import torch

from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.topk_sae import TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig
from dictlearn.interventions.choice import Activate
from dictlearn.interventions.direction import Push
from dictlearn.interventions.edit import Clamp
from dictlearn.interventions.features import Substitute
from dictlearn.interventions.inside import inside
from dictlearn.lm.generation import generate
from dictlearn.lm.mlps import mlp_sites
from dictlearn.lm.patching import patched
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


@pytest.mark.parametrize("cached", [True, False])
def test_the_features_of_a_generation_have_the_layout_of_the_ids(native, cached):
    """Padding has negative positions, and each sequence the features that it has alone."""
    model = native(n_ctx=24).double()
    sae = TopKSAEConfig(n_features=20, k=4).build(hook_sites(model, "blocks.1.hook_resid_post"))
    ids, mask = IDS[[0, 2, 3]], MASK[[0, 2, 3]]  # 6, 3 and 1 tokens
    padding = [0, 3, 5]
    with inside(model, {"sae": sae.double()}) as running:
        tokens = generate(model, ids, 4, mask=mask, cached=cached)[:, :-1]  # the last is not run
        found = running["sae"]
        model(tokens, attention_mask=torch.cat([mask, mask.new_ones(3, 3)], dim=1))
        assert torch.equal(found.positions, running["sae"].positions)
        assert torch.equal(found.positions, torch.arange(9) - torch.tensor(padding)[:, None])
        for i, n in enumerate(padding):
            model(tokens[i : i + 1, n:])
            torch.testing.assert_close(found.dense()[i, n:], running["sae"].dense()[0])
        other = torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(1))
        model(other)
        own = running["sae"].dense()
    with inside(model, {"sae": sae}, edits=Substitute(found, at="sae")) as running:
        model(other)
    for i, n in enumerate(padding):
        assert torch.equal(running["sae"].dense()[i, : 9 - n], found.dense()[i, n:])
        torch.testing.assert_close(running["sae"].dense()[i, 9 - n :], own[i, 9 - n :])


def test_edits_do_not_reach_padding(native):
    """Without a cache, it comes at the end of rows, where positions would go on."""
    model = native(n_ctx=24).double()
    sites = hook_sites(model, "blocks.0.hook_resid_post")
    sae = TopKSAEConfig(n_features=20, k=4).build(sites).double()
    edit = Clamp(3, 30.0, at="sae")
    with inside(model, {"sae": sae}, edits=edit) as running:
        generate(model, IDS, 4, mask=MASK, cached=False)
    found = running["sae"]
    assert torch.equal(found.dense()[..., 3] == 30.0, found.positions >= 0)
    seen = []
    vector = Push(torch.ones(sites.target.d), 5.0, at="blocks.0.hook_mlp_out")
    keep = {"blocks.0.hook_mlp_out": lambda y, positions: seen.append(y)}
    with patched(model, keep), inside(model, {}, edits=vector), patched(model, keep):
        generate(model, IDS, 4, mask=MASK, cached=False)
    moved = (seen[-1] - seen[-2]).norm(dim=2) > 1
    assert moved.sum(dim=1).tolist() == [9, 8, 6, 4]
