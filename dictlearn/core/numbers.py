"""Numbers as callers give them: of Python or numpy, or as tensors without dimensions."""

from math import isfinite
from numbers import Real
from operator import index
from typing import Any, SupportsFloat, SupportsIndex


def whole(given: object) -> int | None:
    """The whole number that `given` is; None if it is none. A truth value is none.

    >>> whole(3), whole(2.0), whole(True)
    (3, None, None)
    """
    given = _of_python(given)
    is_whole = isinstance(given, SupportsIndex) and not isinstance(given, bool)
    return index(given) if is_whole else None  # type: ignore[arg-type]


def counts(given: object) -> tuple[int, ...] | None:
    """The whole numbers from 0 on that `given` is or lists, as 64 bits hold them; None if it has
    anything else.

    >>> counts(5), counts([3, 17]), counts([]), counts([3, -1]), counts([True])
    ((5,), (3, 17), (), None, None)
    """
    given = _of_python(given)
    several = given if isinstance(given, list | tuple | range | set | frozenset) else [given]
    found = [n for n in map(whole, several) if n is not None and 0 <= n < 1 << 63]
    return tuple(found) if len(found) == len(several) else None


def finite(given: object) -> float | None:
    """The finite number that `given` is; None if it is none. A truth value is none.

    >>> finite(3), finite(0.5), finite(float("inf")), finite("3"), finite(True)
    (3.0, 0.5, None, None, None)
    """
    given = _of_python(given)
    if not isinstance(given, Real) or isinstance(given, bool):
        return None
    try:
        number = float(given)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def significant(value: SupportsFloat) -> float:
    """The number to six significant digits, so that files stay small.

    >>> significant(1 / 3)
    0.333333
    """
    return float(f"{float(value):.6g}")


def _of_python(given: Any) -> Any:
    """A tensor, or an array or number of numpy, in types of Python; anything else as it is."""
    return given.tolist() if hasattr(given, "tolist") else given
