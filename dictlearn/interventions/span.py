"""Positions of tokens in their sequences, as edits name them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dictlearn.core.errors import InputError
from dictlearn.core.numbers import counts

_TEXT = re.compile(r"\d{0,18}:\d{0,18}|\d{1,18}(,\d{1,18})*")


@dataclass(frozen=True)
class Span:
    """Some positions, counted from the first token of a sequence, which is 0: `first` to `stop`
    (without it; to the end if None), or those listed in `places`.

    Padding on the left has negative positions, and is in no span.
    """

    first: int = 0
    stop: int | None = None
    places: tuple[int, ...] | None = None

    @classmethod
    def of(cls, given: "Spanned") -> "Span":
        """The span that a slice, a number, several numbers, a text or None (everywhere) stands for.

        >>> Span.of("5:"), Span.of(slice(5, None)) == Span.of("5:"), str(Span.of((0, 4)))
        (Span(first=5, stop=None, places=None), True, '0,4')

        Raises:
            InputError: it is none of these, or counts from the end, which a text that is being
                generated does not have.
        """
        match given:
            case None:
                return cls()
            case Span():
                return given
            case str() if _TEXT.fullmatch(given):
                first, colon, stop = given.partition(":")
                if colon:
                    return cls.of(slice(int(first or 0), int(stop) if stop else None))
                return cls.of(tuple(map(int, given.split(","))))
            case slice(start=first, stop=stop, step=None):
                ends = counts([0 if first is None else first, *([] if stop is None else [stop])])
                if ends:
                    return cls(ends[0], None if stop is None else ends[1])
            case _ if places := counts(given):
                return cls(places=places)
        raise InputError(
            "required positions as 5 (one), (0, 4) or '0,4' (several), slice(5, None) or '5:' (all "
            f"from 5 on), counted from 0 at the first token of a sequence, got {given!r:.80}"
        )

    def holds(self, positions: Int[Tensor, "b pos"]) -> Bool[Tensor, "b pos"]:
        """Whether each of these positions is in the span."""
        if self.places is not None:
            return torch.isin(positions, torch.tensor(self.places, device=positions.device))
        within = positions >= self.first
        return within if self.stop is None else within & (positions < self.stop)

    def __str__(self) -> str:
        if self.places is not None:
            return ",".join(map(str, self.places))
        return f"{self.first or ''}:{'' if self.stop is None else self.stop}"


Spanned: TypeAlias = Span | slice | SupportsIndex | Sequence[SupportsIndex] | Tensor | str | None
"""Positions, in any of the forms that `Span.of` takes."""
