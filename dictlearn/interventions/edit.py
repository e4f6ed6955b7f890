"""Edits: small changes of the features in a running model, as data."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, SupportsFloat, SupportsIndex, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import counts, finite
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.interventions.span import Span, Spanned

NAME = r'[^\s"]*[^\s\d",=][^\s"]*'
"""The names that stand in the text of an edit as they are: neither spaces nor a number."""

Features: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | Tensor
"""The number of a feature, or several numbers."""


@dataclass(frozen=True)
class EditedRows:
    """The tokens of a pass that an edit changes, at one dictionary."""

    dictionary: FeatureDictionary
    x: Float[Tensor, "n d_in"]
    """The source."""
    sequences: Int[Tensor, " n"]
    """The number of each token's sequence in the batch."""
    positions: Int[Tensor, " n"]
    """Its position in that sequence."""
    earlier: "Sequence[tuple[FeatureEdit, Bool[Tensor, ' n']]]" = ()
    """The edits of features before this one, and the tokens where they hold."""


@dataclass(frozen=True, kw_only=True)
class Edit(ABC):
    """A change at one dictionary, at some positions of every sequence.

    Subclasses name what is changed, in `verb`, and how much, in `amount`; `str` of an edit is the
    text that `parse_edit` reads. Vectors and the features of passes have no text; their edits
    print as a description.
    """

    at: str | None = None
    """The name of the dictionary; without it, the only one."""
    positions: Spanned = None
    """One position, several, or a slice, counted from 0 in every sequence; by default all."""
    verb: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", Span.of(self.positions))
        if not isinstance(self.at, str | None):
            raise InputError(f"required the name of a dictionary as at, got {self.at!r:.80}")

    @property
    def span(self) -> Span:
        """The positions."""
        return Span.of(self.positions)

    @property
    def amount(self) -> object:
        """The amount of the change, in words or as a number; None where there is none."""
        return None

    @property
    def subject(self) -> str:
        """The subject of the change, in words."""
        return ""

    @abstractmethod
    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless the edit can be made at `dictionary`."""

    def __str__(self) -> str:
        words = [self.verb, "" if self.at is None else quoted(self.at), self.subject]
        words += [] if self.amount is None else ["=", f"{self.amount}"]
        words += [] if self.span == Span() else ["at", str(self.span)]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class FeatureEdit(Edit):
    """A change of the coefficients of some features."""

    features: Features

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "features", numbers(self.features))

    @property
    def chosen(self) -> tuple[int, ...]:
        """The numbers of the features."""
        assert isinstance(self.features, tuple)
        return self.features

    @property
    def subject(self) -> str:
        """The numbers of the features."""
        return ",".join(map(str, self.chosen))

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless `dictionary` has these features."""
        if max(self.chosen) >= dictionary.n_features:
            raise InputError(
                f"{self}: required features from 0 to {dictionary.n_features - 1}, those of "
                f"{self.at or 'the dictionary'}, got {max(self.chosen)}"
            )

    @abstractmethod
    def edited(self, acts: SparseActs, rows: EditedRows) -> SparseActs:
        """The coefficients of these rows after the edit."""


@dataclass(frozen=True)
class ColumnEdit(FeatureEdit):
    """A change of coefficients, each by itself: only the columns concerned are computed."""

    @abstractmethod
    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """The coefficients of the features, given the old ones."""

    def edited(self, acts: SparseActs, rows: EditedRows) -> SparseActs:
        """The coefficients after the edit."""
        features = torch.tensor(self.chosen, device=acts.indices.device)
        return acts.with_columns(features, self.new(acts.columns(features)))


class Ablate(ColumnEdit):
    """The features are off."""

    verb = "ablate"

    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Zeros."""
        return torch.zeros_like(old)


@dataclass(frozen=True)
class _NumberEdit(ColumnEdit):
    """A change by one number."""

    value: SupportsFloat
    """The number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", number_of(self, self.value))

    @property
    def amount(self) -> float:
        """The number."""
        return float(self.value)

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless `dictionary` has the features, and its type the number."""
        super().require_fits(dictionary)
        require_in_range(self, self.amount, dictionary.x_mean.dtype)


class Clamp(_NumberEdit):
    """The features have one coefficient, whatever the input (pinned features: Bricken et al. 2023,
    "Towards Monosemanticity")."""

    verb = "clamp"

    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """The value."""
        return torch.full_like(old, self.amount)


class Scale(_NumberEdit):
    """The coefficients of the features are multiplied."""

    verb = "scale"

    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """The product."""
        return self.amount * old


class Add(_NumberEdit):
    """A number is added to the coefficients of the features."""

    verb = "add"

    def new(self, old: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """The sum."""
        return old + self.amount


def quoted(name: str) -> str:
    """The name as the text of an edit has it: in the quotation marks of JSON where it needs some.

    >>> print(quoted("sae"), quoted("my sae"), quoted("12"))
    sae "my sae" "12"
    """
    return name if re.fullmatch(NAME, name) else json.dumps(name, ensure_ascii=False)


def numbers(features: Features) -> tuple[int, ...]:
    """The numbers of features, given one or several.

    Raises:
        InputError: there are none, one is repeated, or one is no whole number from 0 on.
    """
    found = counts(features)
    if not found or len(set(found)) < len(found):
        raise InputError(
            "required the number of a feature, such as 17, or several different ones, such as "
            f"(3, 17), got {features!r:.80}"
        )
    return found


def number_of(edit: Edit, value: object) -> float:
    """The number by which `edit` changes something, given the value.

    Raises:
        InputError: it is no finite number.
    """
    if (found := finite(value)) is None:
        raise InputError(f"required a finite number as value of {edit.verb}, got {value!r:.80}")
    return found


def require_in_range(edit: Edit, value: float, dtype: torch.dtype) -> None:
    """Raise an `InputError` if `value` is infinite in `dtype`."""
    if abs(value) > (most := torch.finfo(dtype).max):
        raise InputError(f"{edit}: required a value up to {most:g}, the largest of {dtype}")
