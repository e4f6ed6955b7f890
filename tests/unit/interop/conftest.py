"""Dictionaries as far from trivial as they come: every parameter random, units of their own."""

from collections.abc import Callable

import pytest
import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

ONE = Site("blocks.1.hook_resid_post", 6)
AUTO = Sites(ONE, ONE)
ACROSS = Sites(Site("blocks.1.mlp.hook_in", 6), Site("blocks.1.mlp.hook_out", 6))
PROVENANCE = Provenance(model="tiny", model_hash="ab12", text_hash="cd34", seed=3)


@pytest.fixture
def scrambled() -> Callable[..., FeatureDictionary]:
    """Builds a dictionary whose decoder rows have no unit norm and whose means are not zero."""

    def make(config: DictionaryConfig, dtype: torch.dtype = torch.float64) -> FeatureDictionary:
        generator = torch.Generator().manual_seed(0)
        sites = config.sites(ACROSS) if "transcoder" in config.kind else AUTO
        dictionary = config.build(sites).double()
        with torch.no_grad():
            for parameter in dictionary.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.4 * noise)
        if hasattr(dictionary, "threshold"):
            dictionary.threshold.fill_(0.3)
        means = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        units = (means[0], torch.tensor(1.7), means[1], torch.tensor(0.6))
        dictionary.standardize_(*(units[:2] * 2 if sites.is_autoencoder else units))
        dictionary.provenance = PROVENANCE
        return dictionary.to(dtype).eval()

    return make


@pytest.fixture
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(200, 6, generator=generator, dtype=torch.float64)
