"""Statistics of the features of one dictionary: spread of atoms, density, ultralow density."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.sites import Sites
from dictlearn.evaluation.agreement.correlations import Correlated
from dictlearn.metrics.agreement import cosine_with_mean_direction, neurons_per_feature, twin_share
from dictlearn.records.agreement import BINS_PER_DECADE, LOWEST_DECADE, FeatureSummary
from dictlearn.records.results import Records

ULTRALOW = 1e-5
"""Density below which an active feature counts as one of the ultralow-density cluster."""
_ALIGNED = 0.95


@dataclass(frozen=True)
class Density:
    """Fraction of evaluated rows in which each feature is active, and the number of those rows."""

    values: Float[Tensor, " feature"]
    n_rows: int


def known_densities(
    dictionaries: Mapping[str, FeatureDictionary],
    records: Records | None,
    found: Correlated | None,
) -> dict[str, Density]:
    """The density of each dictionary, from the records where they have it, else from the tokens."""
    densities = {}
    for name, dictionary in dictionaries.items():
        record = None if records is None else records.dictionaries.get(name)
        if record is not None:
            if len(record.density) != dictionary.n_features:
                raise InputError(
                    f"{name!r}: required records of {dictionary.n_features} features, got "
                    f"{len(record.density)}; evaluate these dictionaries"
                )
            densities[name] = Density(record.density.cpu(), int(record.sums["rows"].sum()))
        elif found is not None and name in found.moments:
            densities[name] = Density(found.moments[name].density, found.moments[name].n)
    return densities


def feature_summary(
    dictionary: FeatureDictionary, live: Bool[Tensor, " feature"], density: Density | None
) -> FeatureSummary:
    """The summary of one dictionary; `live` says which of its atoms are compared."""
    atoms = atoms_of(dictionary, live)
    spread = neurons_per_feature(atoms).double()
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    quartiles = spread.nanquantile(quarters).tolist() if len(spread) else [nan] * 3
    sites = Sites(dictionary.sites.source, dictionary.sites.target)
    known = _density_fields(dictionary, density)
    return FeatureSummary(
        kind=dictionary.kind,
        sites=sites,
        n_features=dictionary.n_features,
        n_compared=len(atoms),
        seed=dictionary.provenance.seed,
        baseline=dictionary.baseline,
        neurons_per_feature=quartiles,
        twin_share=twin_share(atoms).item() if len(atoms) > 1 else nan,
        **known,
    )


def _density_fields(dictionary: FeatureDictionary, density: Density | None) -> dict[str, Any]:
    """The fields about density, with a reason for each that is undefined."""
    if density is None:
        reason = "needs tokens, or records of an evaluation"
        return {"reasons": {"density": reason, "ultralow": reason}}
    if not dictionary.n_features:
        return {"reasons": {"density": "it has no features", "ultralow": "it has no features"}}
    values = density.values
    active = values[values > 0]
    logarithms = active.double().log10().clamp(LOWEST_DECADE, 0)
    counts = torch.histc(logarithms, -LOWEST_DECADE * BINS_PER_DECADE, LOWEST_DECADE, 0)
    known: dict[str, Any] = {
        "never_active_share": (values == 0).double().mean().item(),
        "density_counts": counts.long().tolist(),
    }
    if density.n_rows * ULTRALOW <= 1:
        reason = f"{density.n_rows:,} rows show no density below {ULTRALOW:g} but 0"
        return known | {"reasons": {"ultralow": reason}}
    rare = (values > 0) & (values < ULTRALOW)
    known["ultralow_share"] = rare.double().mean().item()
    if rare.sum() < 2:
        return known
    cosines = cosine_with_mean_direction(atoms_of(dictionary, rare))
    aligned = (cosines > _ALIGNED).double().mean().item()
    return known | {"ultralow_cosine": cosines.mean().item(), "ultralow_aligned": aligned}


def atoms_of(dictionary: FeatureDictionary, kept: Bool[Tensor, " feature"]) -> Tensor:
    """The atoms of the features where `kept` holds, on the CPU."""
    return dictionary.atoms.detach().cpu().float()[kept]
