"""Edits of which codes are chosen, for kinds whose coefficients are 0 or 1.

Tamkin, Taufeeque and Goodman 2024, "Codebook Features", section 4: a code is activated or disabled
in the k slots of its group.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.interventions.edit import EditedRows, FeatureEdit

_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class ChoiceEdit(FeatureEdit):
    """A change of the codes chosen in each group concerned; of a residual codebook, in each stage,
    while the other stages keep their codes."""

    slots: str = ""
    """The slots that are changed, or what becomes of them; the first of `ways` unless given."""
    ways: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "slots", self.ways[0] if self.slots == "" else self.slots)
        if self.slots not in self.ways:
            raise InputError(
                f"required {' or '.join(map(repr, self.ways))} as slots of {self.verb}, got "
                f"{self.slots!r}; {nearest(str(self.slots), self.ways)}"
            )

    @property
    def amount(self) -> str:
        """The slots."""
        return self.slots

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless `dictionary` chooses codes, and has these."""
        super().require_fits(dictionary)
        if not dictionary.traits.binary or not dictionary.traits.max_active:
            raise InputError(
                f"{self}: required a dictionary that chooses a number of codes, got one of the "
                f"kind {dictionary.kind!r}; use ablate, clamp, scale or add"
            )

    def edited(self, acts: SparseActs, rows: EditedRows) -> SparseActs:
        """The coefficients after the edit."""
        n_codes = rows.dictionary.n_features // rows.dictionary.traits.n_groups
        for group, codes in self.by_group(n_codes).items():
            members = group * n_codes + torch.arange(n_codes, device=rows.x.device)
            every = torch.arange(len(acts), device=rows.x.device)
            settled = _settled(rows, group, n_codes).index_fill(1, codes.to(rows.x.device), False)
            parts = [
                self._of_group(acts.select(part), rows.x[part], rows.dictionary, members, codes,
                               settled[part])
                for part in every.split(max(1, _SCORES_AT_ONCE // n_codes))
            ]  # fmt: skip
            acts = SparseActs.concatenated(parts, acts.n_features)
        return acts

    def _of_group(
        self,
        acts: SparseActs,
        x: Float[Tensor, "n d_in"],
        dictionary: FeatureDictionary,
        members: Int[Tensor, " code"],
        codes: Int[Tensor, " m"],
        settled: Bool[Tensor, "n code"],
    ) -> SparseActs:
        """The coefficients with those of one group changed."""
        assert dictionary.traits.max_active is not None
        k = dictionary.traits.max_active // dictionary.traits.n_groups
        old, scores = acts.columns(members), dictionary.scores(x, members)
        new = self.chosen_instead(old, scores, codes.to(members), k, settled)
        return acts.with_columns(members, new)

    def by_group(self, n_codes: int) -> Mapping[int, Int[Tensor, " m"]]:
        """The codes of each group, numbered within it."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for feature in self.chosen:
            found[feature // n_codes].append(feature % n_codes)
        return {group: torch.tensor(codes) for group, codes in found.items()}

    @abstractmethod
    def chosen_instead(
        self,
        old: Float[Tensor, "n code"],
        scores: Float[Tensor, "n code"],
        codes: Int[Tensor, " m"],
        k: int,
        settled: Bool[Tensor, "n code"],
    ) -> Float[Tensor, "n code"]:
        """The coefficients of a group of `k` slots, given the old ones and the similarities.

        Codes that are `settled` keep theirs: earlier edits decided about them.
        """


def _settled(rows: EditedRows, group: int, n_codes: int) -> Bool[Tensor, "n code"]:
    """Whether earlier edits decided about each code of a group, by row."""
    found = torch.zeros(len(rows.x), n_codes, dtype=torch.bool, device=rows.x.device)
    for edit, holds in rows.earlier:
        own = [feature % n_codes for feature in edit.chosen if feature // n_codes == group]
        found[:, own] |= holds.unsqueeze(1)
    return found


class Activate(ChoiceEdit):
    """The codes are chosen, whatever the input: they take empty slots and then those of the least
    similar codes ("last"), or one code takes all slots of its group ("all").

    A code in several slots has their number as its coefficient.
    """

    verb = "activate"
    ways = ("last", "all")

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless there are slots for all codes."""
        super().require_fits(dictionary)
        n_groups, total = dictionary.traits.n_groups, dictionary.traits.max_active or 0
        n_slots = 1 if self.slots == "all" else total // n_groups
        for group, codes in self.by_group(dictionary.n_features // n_groups).items():
            if len(codes) > n_slots:
                raise InputError(
                    f"{self}: required at most {n_slots} codes in group {group}, one per slot "
                    f"(all slots are for one code), got {len(codes)}"
                )

    def chosen_instead(
        self,
        old: Float[Tensor, "n code"],
        scores: Float[Tensor, "n code"],
        codes: Int[Tensor, " m"],
        k: int,
        settled: Bool[Tensor, "n code"],
    ) -> Float[Tensor, "n code"]:
        """The coefficients with the codes in their slots."""
        if self.slots == "all":
            return old.where(settled, 0).index_fill(1, codes, k)
        free = old.where(~settled, 0)
        evicted = _slots(old, k) + len(codes) - k
        if bool((evicted > (free > 0).sum(dim=1)).any()):
            raise InputError(
                f"{self}: required slots for all codes, and earlier edits settled too many of the "
                f"{k} of this group"
            )
        least_first = scores.where(free > 0, torch.inf).argsort(dim=1).argsort(dim=1)
        new = old.where(least_first >= evicted.unsqueeze(1), old - 1).clamp_min(0)
        return new.index_add(1, codes, new.new_ones(len(new), len(codes)))


class Disable(ChoiceEdit):
    """The codes are never chosen: the next most similar ones take their slots ("refill"), or
    nothing does ("empty")."""

    verb = "disable"
    ways = ("refill", "empty")

    def chosen_instead(
        self,
        old: Float[Tensor, "n code"],
        scores: Float[Tensor, "n code"],
        codes: Int[Tensor, " m"],
        k: int,
        settled: Bool[Tensor, "n code"],
    ) -> Float[Tensor, "n code"]:
        """The coefficients without the codes."""
        new = old.index_fill(1, codes, 0)
        if self.slots == "empty":
            return new
        freed = (_slots(old, k) - _slots(new, k)).unsqueeze(1)
        taken = ((new > 0) | settled).index_fill(1, codes, True)
        best_first = scores.masked_fill(taken, -torch.inf).argsort(dim=1, descending=True)
        free = (best_first.argsort(dim=1) < freed) & ~taken
        return new + free.to(new)


def _slots(acts: Float[Tensor, "n code"], k: int) -> Int[Tensor, " n"]:
    """The number of slots that codes take: their coefficient, or one if that is no such number."""
    counts = torch.where((acts == acts.round()) & (acts <= k), acts, 1.0)
    return counts.clamp_min(0).long().sum(dim=1)
