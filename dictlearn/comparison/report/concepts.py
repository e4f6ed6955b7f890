"""Sentences on features as detectors of concepts."""

from collections.abc import Iterator
from math import isfinite, sqrt

import pandas as pd

from dictlearn.comparison.statistics.precision import BASELINES
from dictlearn.comparison.vocabulary import number
from dictlearn.records.concepts import Family

_STANDINGS = ("better than", "not distinguishable from", "worse than")


def concepts_summary(frame: pd.DataFrame) -> str:
    """The dictionaries whose features are better, worse and no better than random ones.

    `frame` is a `precision_frame`. Empty where it has less than two dictionaries to compare.
    """
    if Family.RANDOM not in frame.index.unique("family"):
        return ""
    found = frame.xs(Family.RANDOM, level="family")
    if len(found) < 2:
        return ""
    standings = found.apply(_standing, axis="columns")
    groups = {standing: found.index[standings == standing] for standing in _STANDINGS}
    parts = [
        f"{standing} as many random ones: {', '.join(n)}"
        for standing, n in groups.items()
        if len(n)
    ]
    return f"As detectors of concepts, features are {'; '.join(parts)}."


def concept_verdicts(frame: pd.DataFrame) -> list[str]:
    """For each dictionary, whether training made its features better detectors than random ones.

    `frame` is a `precision_frame`. The second sentence has the next family, normally neurons.
    """
    names = frame.index.unique("dictionary") if len(frame) else []
    return [" ".join(_sentences(str(name), frame.loc[name])) for name in names]


def _sentences(name: str, families: pd.DataFrame) -> Iterator[str]:
    if Family.RANDOM in families.index:
        yield _against_random(name, families.loc[Family.RANDOM])
    for family, found in families.drop(Family.RANDOM, errors="ignore").head(1).iterrows():
        random = found.random_better
        yield (
            f"The best feature of {name} is a better detector than the best "
            f"{BASELINES[Family(family)]} for {found.better:.0%} of {found.n_concepts:.0f} concepts"
            + (f"; the best random feature is for {random:.0%}." if isfinite(random) else ".")
        )


def _against_random(name: str, found: pd.Series) -> str:
    spread = 1.96 * sqrt(0.25 / found.n_concepts)  # of a fair coin for every concept
    return (
        f"{name}: as detectors of concepts, features are {_standing(found)} as many random ones "
        f"with the same L0. Their average precision is {found.features:.3f} against "
        f"{found.baseline:.3f} ({number(found.difference, '+.3f')}, 95 % interval over concepts "
        f"{number(found.difference_low, '+.3f')} to {number(found.difference_high, '+.3f')}); they "
        f"are better for {found.better:.0%} of {found.n_concepts:.0f} concepts; by chance they "
        f"would be for {max(0.5 - spread, 0):.0%} to {min(0.5 + spread, 1):.0%}."
    )


def _standing(found: pd.Series) -> str:
    """How features compare with random ones, by the interval of the difference over concepts."""
    better, alike, worse = _STANDINGS
    if found.difference_low > 0:
        return better
    return worse if found.difference_high < 0 else alike
