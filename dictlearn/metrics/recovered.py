"""How much of what an ablation loses a splice keeps."""

import math


def recovered(ablated: float, spliced: float, clean: float) -> float:
    """The part of the loss between `ablated` and `clean` that `spliced` recovers.

    `(ablated - spliced) / (ablated - clean)`, for losses that are means over the same tokens.
    1.0 where the splice is as good as the clean model, 0.0 where it is as bad as the ablation,
    and outside [0, 1] where it is better or worse than both: nothing is clipped. Higher is
    better, provided that the ablation hurts (`ablated > clean`). `nan` where `ablated` equals
    `clean`: there is nothing to recover.

    >>> recovered(ablated=10.0, spliced=4.0, clean=2.0)
    0.75
    """
    lost = ablated - clean
    return (ablated - spliced) / lost if lost else math.nan
