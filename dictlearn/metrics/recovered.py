"""Loss recovered: the fraction of the loss increase of an ablation that a splice avoids."""

import math


def recovered(ablated: float, spliced: float, clean: float) -> float:
    """The fraction of the loss between `ablated` and `clean` that `spliced` recovers.

    `(ablated - spliced) / (ablated - clean)`, for losses that are means over the same tokens.
    1.0 for a splice with the loss of the clean model, 0.0 for one with the loss of the ablation,
    and outside [0, 1] for one that is better or worse than both: nothing is clipped. Higher is
    better, provided that the ablation increases the loss (`ablated > clean`). `nan` where
    `ablated` equals `clean`.

    >>> recovered(ablated=10.0, spliced=4.0, clean=2.0)
    0.75
    """
    lost = ablated - clean
    return (ablated - spliced) / lost if lost else math.nan
