"""Results of a search for learning rates, and the effect of longer training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import pandas as pd

from dictlearn.comparison.statistics.families import families
from dictlearn.comparison.statistics.learning_rates import rates_frame
from dictlearn.comparison.statistics.matched import Family, matched_frame, shared_values
from dictlearn.comparison.vocabulary import by_target
from dictlearn.records.results import Records

_FVU = "fraction_variance_unexplained"


@dataclass(frozen=True)
class Lengths:
    """The results of a search for learning rates at several lengths of training, by steps."""

    validation: Mapping[int, Records]
    """The results of every rate on validation tokens."""
    held_out: Mapping[int, Records]
    """The results of the chosen rates on evaluation tokens."""

    @cached_property
    def rates(self) -> pd.DataFrame:
        """The frames of `rates_frame` for every length, with `steps` first in the index."""
        return pd.concat({n: rates_frame(r) for n, r in sorted(self.validation.items())},
                         names=["steps"])  # fmt: skip

    @cached_property
    def errors(self) -> pd.DataFrame:
        """FVU of families at equal L0 on evaluation tokens: `matched_frame`s, with `steps` first.

        The values of L0 are the same for all lengths: those that the most families reach at all of
        them.
        """
        return pd.concat(
            {n: matched_frame(r, values=self._values(), metrics=[_FVU])
             for n, r in sorted(self.held_out.items())},
            names=["steps"],
        )  # fmt: skip

    def _values(self) -> list[float]:
        return shared_values(
            Family.of(group, curves, "l0")
            for records in self.held_out.values()
            for group in by_target(records).values()
            for curves in families(group, "l0").values()
        )


def rates_at_an_end(rates: pd.DataFrame) -> list[str]:
    """In sentences, the kinds for which the last length chose the lowest or highest rate that was
    tried there, whether or not a shorter length tried rates beyond it.

    `rates` is the frame of `Lengths.rates`.
    """
    found = []
    steps = rates.index.get_level_values("steps").max()
    for (hook, kind), tried in rates.loc[steps].groupby(["hook", "kind"], sort=False):
        by_rate = tried.droplevel(["hook", "kind"])
        chosen = by_rate["chosen"].idxmax()
        for end, name in ((by_rate.index.min(), "lowest"), (by_rate.index.max(), "highest")):
            if chosen == end and len(by_rate) > 1:
                found.append(
                    f"{kind} at {hook} is best at {chosen:g}, the {name} rate tried after "
                    f"{steps:,} steps: one beyond it may be better still."
                )
    return found


def changes_of_order(errors: pd.DataFrame) -> list[str]:
    """In sentences, the families that change their order from each length to the next.

    `errors` is the frame of `Lengths.errors`. Two families have an order where their intervals do
    not overlap. Families that tie at a length keep the order that they had before it, so that a
    change over several lengths is found too.
    """
    steps = sorted(set(errors.index.get_level_values("steps")))
    places = list(dict.fromkeys(errors.index.droplevel(["steps", "metric", "family"])))
    found = []
    before = {place: _ordered(errors, steps[0], *place) for place in places}
    for shorter, longer in pairwise(steps):
        changed = []
        for hook, at in places:
            now = _ordered(errors, longer, hook, at)
            overtaken = before[hook, at] & {pair[::-1] for pair in now}
            before[hook, at] = before[hook, at] - overtaken | now
            changed += [
                f"{second} overtakes {first} at L0 {at:g}" for first, second in sorted(overtaken)
            ]
        what = "; ".join(changed) or "no two families change their order"
        found.append(f"From {shorter:,} to {longer:,} steps, {what}.")
    return found


def _ordered(errors: pd.DataFrame, steps: int, hook: str, at: float) -> set[tuple[str, str]]:
    """The pairs of families of which the first has clearly the lower error."""
    there = errors.loc[steps].xs((hook, _FVU, at), level=["hook", "metric", "at"])
    ends = {family: (row["low"], row["high"]) for family, row in there.iterrows()}
    return {(a, b) for a, (_, high) in ends.items() for b, (low, _) in ends.items() if high < low}
