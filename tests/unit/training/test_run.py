"""The sites of each dictionary of a run."""

import pytest
import torch

import dictlearn as dl
from dictlearn.core.errors import InputError


def test_sites_of_a_single_config_have_no_name():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    site = dl.Site("x", 4)
    sites, run = dl.Sites(site, site), dl.FitConfig(steps=1, batch_size=8, standardize_rows=8)
    config = dl.SAEConfig(n_features=8)
    with pytest.raises(InputError, match=r"by name \('sae'\), but a single config has none: pass"):
        dl.fit(config, x, run, sites={"sae": sites}, progress=False)
    assert dl.fit(config, x, run, sites=sites, progress=False).sites == sites
    with pytest.raises(InputError, match="sites are given for 'sea', which no config has"):
        dl.fit({"sae": config}, x, run, sites={"sea": sites}, progress=False)
