"""Results of a search for learning rates, and the effect of longer training."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import pandas as pd

from dictlearn.comparison.statistics.families import families
from dictlearn.comparison.statistics.interpolation import Family, shared_values
from dictlearn.comparison.statistics.learning_rates import rates_frame
from dictlearn.comparison.statistics.matched import matched_frame, pairs_frame
from dictlearn.comparison.statistics.standings import LEVEL
from dictlearn.comparison.vocabulary import by_target, listed
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
            {n: matched_frame(r, values=self._values, metrics=[_FVU])
             for n, r in sorted(self.held_out.items())},
            names=["steps"],
        )  # fmt: skip

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Differences in FVU of all pairs of families at these values of L0: `pairs_frame`s, with
        `steps` first."""
        return pd.concat({n: pairs_frame(r, self._values, _FVU)
                          for n, r in sorted(self.held_out.items())}, names=["steps"])  # fmt: skip

    @cached_property
    def _values(self) -> list[float]:
        return shared_values(
            Family.of(group, curves, "l0")
            for records in self.held_out.values()
            for group in by_target(records).values()
            for curves in families(group, "l0").values()
        )


def rates_at_an_end(rates: pd.DataFrame) -> list[str]:
    """In sentences, the kinds for which the last length chose the lowest or highest rate that was
    compared with another there, whether or not a shorter length compared rates beyond it.

    `rates` is the frame of `Lengths.rates`.
    """
    found = []
    steps = rates.index.get_level_values("steps").max()
    for (hook, kind), tried in rates.loc[steps].groupby(["hook", "kind"], sort=False):
        chosen, compared = _chosen(tried), _compared(tried)
        ends = {min(compared): "lowest", max(compared): "highest"} if compared else {}
        if chosen in ends:
            found.append(
                f"{kind} at {hook} is best at {chosen:g}, the {ends[chosen]} rate compared after "
                f"{steps:,} steps: one beyond it may be better still."
            )
    return found


def rates_without_comparison(rates: pd.DataFrame) -> list[str]:
    """In sentences, the kinds and lengths of which several rates were tried, but no two share an
    L0 at which they could be compared.

    `rates` is the frame of `Lengths.rates`.
    """
    return [
        f"{kind} at {hook} has its rate, {_chosen(tried):g}, without a comparison after {steps:,} "
        "steps: no two of the rates tried reach one L0."
        for (hook, kind, steps), tried in rates.groupby(["hook", "kind", "steps"], sort=False)
        if not _compared(tried) and tried.index.get_level_values("learning_rate").nunique() > 1
    ]


def _chosen(tried: pd.DataFrame) -> float:
    """The chosen one of the rates of a kind."""
    return tried.index[tried["chosen"]].get_level_values("learning_rate")[0]


def _compared(tried: pd.DataFrame) -> set[float]:
    """The rates of a kind that have an error at the same values of L0 as another one."""
    errors = tried["fvu"].dropna()
    together = errors[errors.groupby("l0").transform("size") > 1]
    return set(together.index.get_level_values("learning_rate"))


def changes_of_order(pairs: pd.DataFrame) -> list[str]:
    """In sentences, the families that change their order from each length to the next.

    `pairs` is the frame of `Lengths.pairs`: differences are paired over sequences and corrected for
    all pairs of a length, as in the verdict. A change is significant if both orders are. Families
    without a significant order at a length keep the one that they had before it, so that a change
    over several lengths is found too. Other changes of sign are named as not significant.
    """
    apart = pairs["value"].where(pairs["p"] < 1).unstack("steps").sort_index(axis="columns")
    clear = apart.where(pairs["p_holm"].unstack("steps") < LEVEL)
    significant = _changes_sign(clear)
    found = []
    for shorter, longer in pairwise(apart.columns):
        now = apart[longer]
        changed = _overtaking(now[significant[longer]])
        others = _overtaking(now[_changes_sign(apart)[longer] & ~significant[longer]])
        parts = changed or ["no two families change their order significantly"]
        if others:
            parts.append(f"not significantly, {', '.join(others)}")
        found.append(f"From {shorter:,} to {longer:,} steps, {'; '.join(parts)}.")
    return found


def _changes_sign(apart: pd.DataFrame) -> pd.DataFrame:
    """Whether each difference has the opposite sign of the last one before it."""
    return apart * apart.ffill(axis="columns").shift(axis="columns") < 0


def _overtaking(apart: pd.Series) -> list[str]:
    """For each pair of families with these differences in error, which overtakes which, and at
    which values of L0."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for (hook, at, *both), difference in apart.items():
        better, worse = both if difference < 0 else both[::-1]
        places.setdefault((hook, better, worse), []).append(f"{at:g}")
    several = len(set(apart.index.get_level_values("hook"))) > 1
    return [
        f"{better} overtakes {worse} at L0 {listed(values)}" + f" of {hook}" * several
        for (hook, better, worse), values in places.items()
    ]
