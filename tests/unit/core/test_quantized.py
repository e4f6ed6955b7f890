"""Rounding coefficients: what stays, what moves by how much, and what scale does to it."""

import copy

import pytest
import torch

from dictlearn.contract.check import check_dictionary
from dictlearn.core.errors import InputError
from dictlearn.core.provenance import Provenance
from dictlearn.core.quantized import Quantized
from dictlearn.core.sites import Site, Sites
from dictlearn.dictionaries.codebook import CodebookConfig
from dictlearn.dictionaries.identity import IdentityConfig
from dictlearn.dictionaries.topk_sae import TopK, TopKSAEConfig
from dictlearn.dictionaries.transcoder import TranscoderConfig

SITE = Site("y", 8)


@pytest.fixture
def sae():
    dictionary = TopKSAEConfig(n_features=32, k=4).build(Sites(SITE, SITE), seed=0)
    mean, scale = torch.arange(8.0), torch.tensor(3.0)
    dictionary.standardize_(mean, scale, mean, scale)
    return dictionary.requires_grad_(False)


@pytest.fixture
def x():
    return 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8.0)


def test_levels_by_hand(x):
    identity = IdentityConfig().build(Sites(SITE, SITE))
    row = torch.tensor([[0.0, 0.1, -0.1, 0.74, 0.76, 1.3, -2.2, 0.5]])
    expected = torch.tensor([[0.0, 0.5, -0.5, 0.5, 1.0, 1.5, -2.0, 0.5]])
    quantized = Quantized(identity, 0.5)
    assert torch.equal(quantized.encode(row), expected)
    assert torch.equal(quantized(row), expected)
    acts = identity.encode_sparse(row)
    assert quantized.levels(acts).tolist() == [1, -1, 1, 2, 3, -4, 1]


def test_it_keeps_the_contract(sae, x):
    results = check_dictionary(Quantized(sae, 0.7), x)
    assert {name for name, result in results.items() if result != "passed"} == {
        "save_and_load", "gradients", "seeds", "learning",
    }  # fmt: skip


def test_a_linear_skip_is_kept():
    sites = Sites(Site("x", 12), SITE)
    base = TranscoderConfig(n_features=16, linear_skip=True).build(sites, seed=0)
    x = torch.randn(5, 12)
    quantized = Quantized(base, 0.1)
    torch.testing.assert_close(quantized.skip(x), base.skip(x))


@pytest.mark.parametrize("step", [0.01, 1.0, 100.0])
def test_the_support_never_changes_and_contributions_move_by_half_a_step(sae, x, step):
    before, after = sae.encode_sparse(x), Quantized(sae, step).encode_sparse(x)
    assert torch.equal(before.indices, after.indices)
    assert torch.equal(before.offsets, after.offsets)
    norms = sae.atoms.norm(dim=1)[before.indices]
    moved = (after.values - before.values).abs() * norms
    large = before.values * norms > step / 2
    assert (moved[large] <= 0.5001 * step).all()
    assert torch.allclose(after.values[~large] * norms[~large], torch.tensor(step))


def test_rounding_twice_is_rounding_once(sae, x):
    quantized = Quantized(sae, 0.3)
    acts = quantized.encode_sparse(x)
    assert torch.equal(quantized.levels(acts), quantized.levels(sae.encode_sparse(x)))


def test_a_tiny_step_changes_nothing_to_rounding(sae, x):
    torch.testing.assert_close(Quantized(sae, 1e-5)(x), sae(x), rtol=1e-4, atol=1e-3)


def test_scaling_features_against_atoms_changes_no_level(sae, x):
    scaled = copy.deepcopy(sae)
    factors = 2.0 ** torch.arange(32).remainder(5)
    scaled.W_enc *= factors
    scaled.b_enc *= factors
    scaled.W_dec /= factors[:, None]
    scaled.rule = sae.rule = TopK(sae.n_features)  # or other features would be the largest
    first, second = Quantized(sae, 0.5), Quantized(scaled, 0.5)
    levels = [q.levels(q.encode_sparse(x)) for q in (first, second)]
    assert torch.equal(*levels)
    torch.testing.assert_close(first(x), second(x))


def test_an_atom_of_zero_stays_finite(sae, x):
    sae.W_dec.zero_()
    quantized = Quantized(sae, 0.5)
    acts = quantized.encode_sparse(x)
    assert acts.values.isfinite().all()
    assert set(quantized.levels(acts).tolist()) == {1}


def test_origin_and_promises_are_those_of_the_base(sae):
    sae.provenance = Provenance(model="toy")
    quantized = Quantized(sae, 1.0)
    assert quantized.provenance is sae.provenance
    assert quantized.traits == sae.traits
    assert quantized.sites == sae.sites


def test_what_cannot_be_rounded_is_refused(sae):
    with pytest.raises(InputError, match="above 0"):
        Quantized(sae, 0.0)
    with pytest.raises(InputError, match="binary"):
        Quantized(CodebookConfig(n_codes=4).build(Sites(SITE, SITE)), 1.0)
