"""Features and baselines as detectors of concepts, over all concepts."""

from collections.abc import Mapping
from math import nan

import pandas as pd
import torch

from dictlearn.metrics.intervals import Interval, jackknife_interval
from dictlearn.records.concepts import ConceptRecords, Family

BASELINES: Mapping[Family, str] = {
    Family.RANDOM: "random feature",
    Family.NEURONS: "neuron",
    Family.BASIS: "basis direction",
    Family.PCA: "principal component",
}
"""Families that features are compared with, in the order in which they are shown, and a member."""


def precision_frame(records: ConceptRecords) -> pd.DataFrame:
    """Mean average precision of features and of each other family as detectors of concepts.

    One row for each dictionary and family. Candidates and thresholds are selected on one half of
    the text and scored on the other. Columns:

    * `n_concepts`: number of concepts that were scored;
    * `features`, `baseline`: average precision, averaged over concepts;
    * `difference`, `difference_low`, `difference_high`: features minus baseline, with the 95 %
      interval over concepts. For the family "random" it is what training added; a dictionary that
      is itself random has 0 up to noise, whatever its width;
    * `better`: fraction of concepts for which the feature has the larger average precision; here
      and below, a tie counts half, so that chance is 1/2;
    * `significantly_better`, `significantly_worse`: fractions for which the 95 % interval of the
      difference over other text excludes 0;
    * `random_better`: fraction of concepts for which the random feature, of as many with the same
      L0, has a larger average precision than the baseline; `nan` for the family "random";
    * `precision`, `recall`, `baseline_precision`, `baseline_recall`: those at the threshold of each
      detector, averaged over the concepts for which they are defined;
    * `naive_better`: as `better`, on the half used for selection, which favours many candidates.
    """
    frame = records.to_pandas().set_index(["concept", "dictionary"])
    features = frame[frame.family == Family.FEATURES]
    untrained = frame[frame.family == Family.RANDOM].average_precision
    rows = {}
    for name in features.index.unique("dictionary"):
        for family in families_of(records):
            baseline = frame[frame.family == family].query("dictionary == @name")
            if len(baseline):
                above = _above(untrained.reindex(baseline.index) - baseline.average_precision)
                rows[name, str(family)] = _row(features.loc[baseline.index], baseline) | {
                    "random_better": nan if family is Family.RANDOM else above
                }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["dictionary", "family"])


def _row(own: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, float]:
    difference = _mean(baseline.advantage)
    return {
        "n_concepts": float(len(baseline)),
        "features": own.average_precision.mean(),
        "baseline": baseline.average_precision.mean(),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "better": _above(baseline.advantage),
        "significantly_better": (baseline.advantage_low > 0).mean(),
        "significantly_worse": (baseline.advantage_high < 0).mean(),
        "precision": own.precision.mean(),
        "recall": own.recall.mean(),
        "baseline_precision": baseline.precision.mean(),
        "baseline_recall": baseline.recall.mean(),
        "naive_better": _above(own.naive_average_precision - baseline.naive_average_precision),
    }


def _above(differences: pd.Series) -> float:
    """The fraction of the differences above 0, ties counted half; `nan` where none is defined."""
    defined = differences.dropna()
    return ((defined > 0) + 0.5 * (defined == 0)).mean()


def _mean(values: pd.Series) -> Interval:
    """The mean over concepts, with Student's interval."""
    x = torch.tensor(values.to_numpy(dtype=float))
    return jackknife_interval(x.mean().item(), (x.sum() - x) / (len(x) - 1))


def families_of(records: ConceptRecords) -> list[Family]:
    """The families in these records beside features, in the order of `BASELINES`."""
    present = {score.family for score in records.scores}
    return [family for family in BASELINES if family in present]
