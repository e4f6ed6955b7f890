"""Precision of features and of baseline directions at detecting concepts, over all concepts."""

import pandas as pd

from dictlearn.records.concepts import ConceptRecords

BASELINES = ("neurons", "basis", "pca")
"""Families of baseline directions, in the order in which they are shown."""


def precision_frame(records: ConceptRecords) -> pd.DataFrame:
    """Mean precision of features and of each family of baseline directions.

    One row for each dictionary and family. Candidates are selected on one half of the text and
    scored on the other, at the recall of the feature. Columns:

    * `n_concepts`: number of concepts that were scored;
    * `features`, `baseline`: mean precision, over concepts for which both are defined;
    * `better`: fraction of concepts for which the feature is more precise;
    * `significantly_better`, `significantly_worse`: fractions for which the 95 % interval of the
      difference excludes 0;
    * `naive_features`, `naive_baseline`, `naive_better`: the same on the half used for selection
      (Tamkin et al. 2023, figure 6). This is biased upwards for both, most of all with many
      candidates and few matches.
    """
    frame = records.to_pandas()
    features = frame[frame.family == "features"].set_index(["concept", "dictionary"])
    rows = {}
    baselines = frame[frame.family != "features"]
    for key, baseline in baselines.groupby(["dictionary", "family"], sort=False):
        baseline = baseline.set_index(["concept", "dictionary"])
        own = features.loc[baseline.index]
        defined = baseline.advantage.notna()
        rows[key] = {
            "n_concepts": len(baseline),
            "features": own.precision[defined].mean(),
            "baseline": baseline.precision[defined].mean(),
            "better": (baseline.advantage > 0).mean(),
            "significantly_better": (baseline.advantage_low > 0).mean(),
            "significantly_worse": (baseline.advantage_high < 0).mean(),
            "naive_features": own.naive_precision.mean(),
            "naive_baseline": baseline.naive_precision.mean(),
            "naive_better": (own.naive_precision > baseline.naive_precision).mean(),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.rename_axis(["dictionary", "family"])


def baseline_families(records: ConceptRecords) -> list[str]:
    """The families of baseline directions in these records, in the order of `BASELINES`."""
    present = {score.family for score in records.scores}
    return [family for family in BASELINES if family in present]
