"""Configurations: frozen fields, whose names and values are checked on construction."""

import math
from abc import ABCMeta
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dictlearn.core.errors import ConfigError, nearest

C = TypeVar("C", bound="Config")


class _NamesChecked(ABCMeta):
    """Rejects a misspelt, missing or wrongly typed field with a `ConfigError` that names it."""

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        valid = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in kwargs:
            if name not in valid:
                raise ConfigError(f"{cls.__name__} has no field {name!r}; {nearest(name, valid)}")
        required = [
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.default is MISSING and f.default_factory is MISSING
        ]
        missing = [name for name in required if name not in kwargs]
        if missing:
            raise ConfigError(f"{cls.__name__} needs a value for {', '.join(missing)}")
        hints = get_type_hints(cls)
        for name, value in kwargs.items():
            kwargs[name] = value = _as_declared(value, hints[name])
            if not matches(value, hints[name]):
                wanted = in_words(hints[name])
                raise ConfigError(f"{cls.__name__}.{name} must be {wanted}, got {value!r}")
        return super().__call__(*args, **kwargs)


@dataclass(frozen=True, kw_only=True)
class Config(metaclass=_NamesChecked):
    """Base of every configuration; unknown names and bad values are rejected on construction.

    Where a tuple is declared, a list becomes one.
    """

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their defaults."""
        return {
            f.name: value
            for f in fields(self)
            if f.repr and (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
        """The config with these fields, as `to_dict` gives them."""
        return cls(**data)

    def _require(self, holds: bool, field: str, requirement: str) -> None:
        if not holds:
            raise ConfigError(
                f"{type(self).__name__}.{field} must be {requirement}, got {getattr(self, field)!r}"
            )

    def _require_count(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(value is None or value >= 1, name, "a whole number of at least 1")

    def _require_not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(
                math.isfinite(value) and value >= 0, name, "a finite number of at least 0"
            )

    def _require_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._require(math.isfinite(value) and value > 0, name, "a finite number above 0")

    def _require_choice(self, field: str, valid: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if value not in valid:
            raise ConfigError(
                f"{type(self).__name__}.{field} must be one of {', '.join(valid)}, got "
                f"{value!r}; {nearest(str(value), valid)}"
            )


def matches(value: object, hint: Any) -> bool:
    """Whether `value` has the declared type of a field; an integer is accepted as a float."""
    arms = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(matches(value, arm) for arm in arms)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        inner = arms[:1] * len(value) if arms[1:] == (...,) else arms
        return len(inner) == len(value) and all(map(matches, value, inner))
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def _as_declared(value: object, hint: Any) -> object:
    """`value`, a list as a tuple where a tuple is declared."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    is_tuple = any(get_origin(arm) is tuple for arm in arms)
    return tuple(value) if is_tuple and isinstance(value, list) else value


_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    NoneType: ("none", "none"),
}


def in_words(hint: Any) -> str:
    """A declared type in words.

    >>> in_words(tuple[float, ...]), in_words(tuple[float, float]), in_words(int | None)
    ('a list of numbers', 'a list of 2 numbers', 'a whole number or none')
    """
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        many = _WORDS.get(inner[0], (str(inner[0]),))[-1]
        return f"a list of {many}" if inner[1:] == (...,) else f"a list of {len(inner)} {many}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(in_words(arm) for arm in get_args(hint))
    return _WORDS.get(hint, (str(hint),))[0]
