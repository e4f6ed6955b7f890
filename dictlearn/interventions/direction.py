"""Edits of a target along a direction: that of a feature, or any vector."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import SupportsFloat, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.numbers import whole
from dictlearn.core.sparse_acts import SparseActs
from dictlearn.interventions.edit import Edit, number_of, require_in_range


@dataclass(frozen=True, eq=False)
class DirectionEdit(Edit):
    """A change of a target along a direction of norm 1, in raw units.

    `at` is the name of a dictionary, or, for a vector, of any hook.
    """

    direction: SupportsIndex | Tensor
    """The number of a feature, whose atom gives the direction, or a vector."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.direction
        is_vector = isinstance(given, Tensor) and given.ndim > 0
        found = _vector(given) if is_vector else whole(given)  # type: ignore[arg-type]
        if found is None or (isinstance(found, int) and found < 0):
            raise InputError(
                f"required the number of a feature, or a vector that is not 0, as direction of "
                f"{self.verb}, got {given!r:.80}"
            )
        object.__setattr__(self, "direction", found)

    @property
    def _feature(self) -> int:
        """The number of the feature."""
        assert isinstance(self.direction, int)
        return self.direction

    @property
    def subject(self) -> str:
        """The number of the feature, or that there is a vector."""
        return "(vector)" if isinstance(self.direction, Tensor) else str(self.direction)

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless `dictionary` has the feature, with an atom that has a
        direction, or the vector its width."""
        if isinstance(self.direction, Tensor):
            self.require_width(dictionary.sites.target.d)
        elif self._feature >= dictionary.n_features:
            raise InputError(
                f"{self}: required a feature from 0 to {dictionary.n_features - 1}, got "
                f"{self.direction}"
            )
        self.unit(dictionary)

    def require_width(self, d: int) -> None:
        """Raise an `InputError` unless the direction is a vector of width `d`."""
        if not isinstance(self.direction, Tensor) or len(self.direction) != d:
            raise InputError(f"{self}: required a vector of width {d}, got {self.direction!r:.80}")

    def unit(self, dictionary: FeatureDictionary | None) -> Float[Tensor, " d_out"]:
        """The direction, with norm 1.

        Raises:
            InputError: the feature's atom is 0 or not finite.
        """
        if isinstance(self.direction, Tensor):
            vector = self.direction
        else:
            assert dictionary is not None
            one = torch.tensor([self._feature], device=dictionary.x_mean.device)
            acts = SparseActs.from_counts(
                torch.ones_like(one), one, dictionary.x_mean.new_ones(1), dictionary.n_features
            )
            vector = dictionary.write(acts)[0]
        largest = vector.abs().max()
        if not 0 < largest < torch.inf:
            raise InputError(
                f"{self}: required a feature whose atom has a direction, got an atom whose largest "
                f"number is {largest.item()}"
            )
        scaled = vector / largest  # its squares neither overflow nor vanish
        return scaled / scaled.norm()

    @abstractmethod
    def moved(
        self, y: Float[Tensor, "n d_out"], unit: Float[Tensor, " d_out"]
    ) -> Float[Tensor, "n d_out"]:
        """The target after the edit."""


def _vector(given: Tensor) -> Float[Tensor, " d"] | None:
    """The vector with floating-point numbers; None if it is none, or has no direction."""
    if given.ndim != 1 or given.dtype is torch.bool or given.is_complex():
        return None
    vector = given if given.is_floating_point() else given.to(torch.get_default_dtype())
    return vector if vector.isfinite().all() and vector.any() else None


class _ComponentEdit(DirectionEdit):
    """A change that depends on the component along the direction."""

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` also if the component is known only at the last of many hooks."""
        super().require_fits(dictionary)
        if len(dictionary.sites.target.hooks) > 1:
            raise InputError(
                f"{self}: required a dictionary of one target, got one of several "
                f"({dictionary.sites.target}), along which the component depends on what comes "
                "later in a pass; give the vector for one hook (at=…)"
            )


class ProjectOut(_ComponentEdit):
    """The component along the direction is removed (Arditi et al. 2024, directional ablation)."""

    verb = "project-out"

    def moved(
        self, y: Float[Tensor, "n d_out"], unit: Float[Tensor, " d_out"]
    ) -> Float[Tensor, "n d_out"]:
        """The projection on the complement."""
        return y - (y @ unit).unsqueeze(1) * unit


@dataclass(frozen=True, eq=False)
class _NumberEdit(DirectionEdit):
    """A change by one number."""

    value: SupportsFloat
    """The number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "value", number_of(self, self.value))

    def require_fits(self, dictionary: FeatureDictionary) -> None:
        """Raise an `InputError` unless the direction and the number fit `dictionary`."""
        super().require_fits(dictionary)
        require_in_range(self, self.amount, dictionary.x_mean.dtype)

    @property
    def amount(self) -> float:
        """The number."""
        return float(self.value)


class Push(_NumberEdit):
    """The direction is added, with the value as its norm (Turner et al. 2023)."""

    verb = "push"

    def moved(
        self, y: Float[Tensor, "n d_out"], unit: Float[Tensor, " d_out"]
    ) -> Float[Tensor, "n d_out"]:
        """The sum."""
        return y + self.amount * unit


class Cap(_NumberEdit, _ComponentEdit):
    """The component along the direction is at most the value; less stays as it is."""

    verb = "cap"

    def moved(
        self, y: Float[Tensor, "n d_out"], unit: Float[Tensor, " d_out"]
    ) -> Float[Tensor, "n d_out"]:
        """The target without what exceeds the limit."""
        return y - (y @ unit - self.amount).clamp_min(0).unsqueeze(1) * unit
