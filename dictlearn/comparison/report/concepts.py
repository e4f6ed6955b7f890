"""Sentences on features as detectors of concepts."""

from collections.abc import Iterator
from math import isfinite, sqrt

import pandas as pd

from dictlearn.comparison.statistics.precision import BASELINES
from dictlearn.comparison.vocabulary import number
from dictlearn.records.concepts import Family

CONCEPTS_CAPTION = (
    "How well single features detect concepts that are defined by regular expressions. A detector "
    "is better if its average precision is larger: the precision at the score of each token with "
    "the concept, averaged over these tokens. For each concept, the best feature and the best "
    "candidate of each baseline are selected on one half of the text and scored on the other. "
    "The baseline “random” has as many features with the same L0, which were never trained: the "
    "best of many finds something by chance, and what training adds is the difference to random. "
    "“Random better” is the fraction of concepts for which it, too, beats the baseline of the row. "
    "Significantly: the 95 % interval of the difference over other text excludes 0. Precision is "
    "that of each detector at its own threshold, with the recall there."
)

CONCEPT_COLUMNS = {
    "n_concepts": ("concepts", ".0f"),
    "features": ("average precision of features", ".3f"),
    "baseline": ("average precision of baseline", ".3f"),
    "difference": ("difference", "+.3f"),
    "difference_low": ("from", "+.3f"),
    "difference_high": ("to", "+.3f"),
    "better": ("features better", ".0%"),
    "significantly_better": ("significantly better", ".0%"),
    "significantly_worse": ("significantly worse", ".0%"),
    "random_better": ("random better", ".0%"),
    "precision": ("precision of features", ".3f"),
    "recall": ("recall", ".3f"),
    "baseline_precision": ("precision of baseline", ".3f"),
    "baseline_recall": ("recall", ".3f"),
}
"""Headings and formats of the columns of `precision_frame` that are shown."""


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
    if found.difference_low > 0:
        verdict = "better than"
    elif found.difference_high < 0:
        verdict = "worse than"
    else:
        verdict = "not distinguishable from"
    return (
        f"{name}: as detectors of concepts, features are {verdict} as many random ones with the "
        f"same L0. Their average precision is {found.features:.3f} against {found.baseline:.3f} "
        f"({number(found.difference, '+.3f')}, 95 % interval over concepts "
        f"{number(found.difference_low, '+.3f')} to {number(found.difference_high, '+.3f')}); they "
        f"are better for {found.better:.0%} of {found.n_concepts:.0f} concepts; by chance they "
        f"would be for {max(0.5 - spread, 0):.0%} to {min(0.5 + spread, 1):.0%}."
    )
