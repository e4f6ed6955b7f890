"""Standardization of sites: a mean vector and one scale for each hook."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.sites import Site, Sites


@dataclass(frozen=True)
class Units:
    """Mean and scale of one site: `(x - mean) / scale` has unit variance per dimension."""

    mean: Float[Tensor, " d"]
    scale: Float[Tensor, "*#d"]


@dataclass(frozen=True)
class Standardization:
    """Mean and scale of a source and a target."""

    source: Units
    target: Units

    @classmethod
    def at(cls, sites: Sites, units: Mapping[str, Units]) -> "Standardization":
        """The standardization at `sites`, given that of each hook; joined hooks keep their own."""
        return cls(_joined(sites.source, units), _joined(sites.target, units))

    def apply_(self, dictionary: FeatureDictionary) -> None:
        """Standardize the inputs and targets of `dictionary` this way."""
        source, target = self.source, self.target
        dictionary.standardize_(source.mean, source.scale, target.mean, target.scale)


def fit_units(
    site: Site, batches: Iterable[Float[Tensor, "n d"]], dtype: torch.dtype = torch.float32
) -> Units:
    """Mean and scale of `site` from rows of activations, accumulated in float64, as `dtype`.

    The scale is the root of the variance averaged over dimensions; a site that never varies
    keeps scale 1.
    """
    n, total, squares = 0, torch.zeros(site.d, dtype=torch.float64), 0.0
    for x in batches:
        rows = x.to("cpu", torch.float64)
        n += len(rows)
        total += rows.sum(dim=0)
        squares += float(rows.pow(2).sum())
    mean = total / n
    variance = max(squares / n - float(mean.pow(2).sum()), 0.0) / site.d
    scale = variance**0.5 if variance > 0 else 1.0
    return Units(mean.to(dtype), torch.tensor(scale, dtype=dtype))


def _joined(site: Site, units: Mapping[str, Units]) -> Units:
    parts = [units[hook] for hook in site.hooks]
    means = [part.mean for part in parts]
    mean = means[0] if len(means) == 1 else torch.cat(means)
    return Units(mean, site.scale([part.scale for part in parts]))
