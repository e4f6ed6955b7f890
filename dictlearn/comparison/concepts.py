"""Are features better than neurons? Precision over all concepts, from concept records alone."""

import pandas as pd

from dictlearn.core.concept_records import ConceptRecords


def precision_frame(records: ConceptRecords) -> pd.DataFrame:
    """One row for each dictionary and rival family: precision of features beside its own.

    Columns, for candidates scored on text that they were not chosen on:

    * `n_concepts`: concepts over which the rest is taken;
    * `features`, `rival`: mean precision, over concepts where both have one;
    * `better`: share of concepts where the feature is the more precise;
    * `surely_better`, `surely_worse`: shares where the interval of the difference excludes 0;
    * `naive_features`, `naive_rival`, `naive_better`: the same with candidates scored on the text
      that they were chosen on (Tamkin et al. 2023, figure 6), which flatters both, and most those
      with many candidates and few matches.
    """
    frame = records.to_pandas()
    features = frame[frame.family == "features"].set_index(["concept", "dictionary"])
    rows = {}
    rivals = frame[frame.family != "features"]
    for key, rival in rivals.groupby(["dictionary", "family"], sort=False):
        rival = rival.set_index(["concept", "dictionary"])
        own = features.loc[rival.index]
        defined = rival.advantage.notna()
        rows[key] = {
            "n_concepts": len(rival),
            "features": own.precision[defined].mean(),
            "rival": rival.precision[defined].mean(),
            "better": (rival.advantage > 0).mean(),
            "surely_better": (rival.advantage_low > 0).mean(),
            "surely_worse": (rival.advantage_high < 0).mean(),
            "naive_features": own.naive_precision.mean(),
            "naive_rival": rival.naive_precision.mean(),
            "naive_better": (own.naive_precision > rival.naive_precision).mean(),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    return found.rename_axis(["dictionary", "family"])
