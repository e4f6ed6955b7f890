"""Rows of data and random directions, as a level of chance for the similarity of dictionaries."""

import pytest
import torch
from torch.nn.functional import normalize

import dictlearn as dl
from dictlearn.core.tokens import Tokens
from dictlearn.evaluation.agreement.compare_features import compare_features
from dictlearn.evaluation.agreement.controls import GAUSSIAN, ROWS, Directions, controls
from dictlearn.lm.forward import activations_at
from dictlearn.metrics.agreement import twin_share

WIDEST = 1024
"""Correlations are comparable at one density, so at the width of the controls."""


@pytest.fixture(scope="module")
def model(native):
    return native(n_ctx=40)


@pytest.fixture(scope="module")
def tokens():
    ids = torch.randint(1, 40, (60, 40), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = 0
    return Tokens(ids, ids != 0, source="random", split="held_out", hash="abc")


@pytest.fixture(scope="module")
def rows(model, tokens):
    hook = "blocks.1.hook_mlp_out"
    return activations_at(model, tokens.ids, [hook])[hook][tokens.ordinary]


@pytest.fixture(scope="module")
def sites(model):
    return dl.hook_sites(model, "blocks.1.hook_mlp_out")


def test_they_are_what_their_names_say(model, tokens, rows, sites):
    wide = {"sae": dl.SAEConfig(n_features=5000).build(sites)}
    found = controls(wide, model, tokens.ids, tokens.ordinary)
    assert list(found) == [ROWS, GAUSSIAN]
    data, gaussian = (d.atoms for d in found.values())
    assert len(data) == len(rows), "there are no more rows than tokens"
    assert len(gaussian) == 5000
    apart = normalize(rows - rows.mean(dim=0), dim=1)
    assert torch.allclose((data @ apart.T).amax(dim=1), torch.ones(len(data)), atol=1e-5)
    strongest = torch.linalg.svd(apart, full_matrices=False).Vh[0]
    isotropic = normalize(torch.randn(5000, rows.shape[1]), dim=1)
    along = [(some @ strongest).square().mean() for some in (gaussian, isotropic)]
    assert along[0] > 1.5 * along[1], "they lie where the data vary"


@pytest.mark.parametrize("width", [64, WIDEST])
def test_what_nobody_learned_is_at_chance(model, tokens, rows, sites, width):
    sae = dl.TopKSAEConfig(n_features=WIDEST, k=4).build(sites)
    mean, mixing = rows.mean(dim=0), torch.randn(width, len(rows)) / len(rows) ** 0.5
    nobody = Directions(sites, mixing @ (rows - mean), mean)
    found = compare_features({"sae": sae, "nobody": nobody}, model, tokens, progress=False)
    for measure in ("mmcs", "correlation") if width == WIDEST else ("mmcs",):
        chance = found.pair(GAUSSIAN, "sae").value(measure)
        assert found.pair("nobody", "sae").value(measure) == pytest.approx(chance, abs=0.03)
    assert found.dictionaries[ROWS].baseline


def test_they_are_left_out_on_request_and_without_text(model, tokens, sites):
    pair = {name: dl.SAEConfig(n_features=8).build(sites) for name in "ab"}
    assert compare_features(pair, model, tokens, chance=False).dictionaries.keys() == pair.keys()
    assert compare_features(pair).dictionaries.keys() == pair.keys()
    several = pair | {"c": dl.SAEConfig(n_features=8).build(dl.hook_sites(model, "hook_embed"))}
    found = compare_features(several, model, tokens, progress=False)
    assert f"{ROWS} at hook_embed" in found.dictionaries


def test_near_twins_are_counted(sites):
    twins = dl.SAEConfig(n_features=10).build(sites)
    with torch.no_grad():
        twins.W_dec[3] = twins.W_dec[7] + 0.1 * twins.W_dec[1]
    assert twin_share(twins.atoms.detach()).item() == pytest.approx(0.2)
    found = compare_features({"a": twins, "b": dl.SAEConfig(n_features=10).build(sites, seed=1)})
    assert found.dictionaries["a"].twin_share == pytest.approx(0.2)
    assert found.dictionaries["b"].twin_share == 0
