"""Every kind on data that give little to learn: it works with finite numbers, or says why not."""

import pytest
import torch

import dictlearn as dl
from dictlearn.activations.tensors import TensorActivations
from dictlearn.contract.subject import synthetic
from dictlearn.core.errors import InputError
from dictlearn.dictionaries.registry import KINDS

RUN = dl.FitConfig(steps=20, batch_size=32, standardize_rows=64, log_every=5, dead_after=5)
DATA = {
    "constant": lambda x: torch.full_like(x, 3.7),
    "zero": torch.zeros_like,
    "short": lambda x: x[:4],
    "one": lambda x: x[:1],
    "large": lambda x: x * 1e25,
    "small": lambda x: x * 1e-25,
    "tiny": lambda x: x * 1e-40,
}
REFUSALS = {
    "ica": (r"vary in as many directions, got 640 rows that vary in [03]",
            {"constant", "zero", "short", "one"}),
    "neurons": ("weights given do not compute y from x", {"constant", "zero", "small", "tiny"}),
}  # fmt: skip
"""What kinds say, and of which data."""


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("config", [kind.tiny() for kind in KINDS], ids=lambda c: c.kind)
def test_every_kind_works_or_says_why_not(config, data):
    ordinary = synthetic(seed=0)
    [sites] = ordinary.sites
    rows = ordinary.rows(0, 0, 256).batch(sites)
    x, y = map(DATA[data], (rows.x, rows.y))
    activations = TensorActivations(x, y, sites=sites, mlp=ordinary.mlp_weights(sites))
    words, refused = REFUSALS.get(config.kind, ("", ()))
    if data in refused:
        with pytest.raises(InputError, match=words):
            dl.fit(config, activations, RUN, progress=False)
        return
    dictionary = dl.fit(config, activations, RUN, progress=False)
    seen = x if dictionary.sites.source == sites.source else y
    found = {
        **dictionary.state_dict(), "atoms": dictionary.atoms, "bias": dictionary.bias,
        "acts": dictionary.encode(seen), "y_hat": dictionary(seen),
    }  # fmt: skip
    assert [name for name, tensor in found.items() if not torch.isfinite(tensor).all()] == []


def test_a_scale_of_data_scales_what_is_learned_and_nothing_else():
    """A power of two changes no bit but those of the exponent."""
    ordinary = synthetic(seed=0)
    y = ordinary.rows(0, 0, 256).batch(ordinary.sites[0]).y
    for config in (dl.KMeansConfig(n_features=4), dl.RandomConfig(n_features=16, k=2)):
        one, large = (dl.fit(config, y * scale, RUN, progress=False) for scale in (1.0, 2.0**80))
        assert torch.equal(one.atoms * 2.0**80, large.atoms)
        assert torch.equal(one.encode(y), large.encode(y * 2.0**80))
