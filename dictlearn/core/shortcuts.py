"""The switch for all shortcuts: faster code paths that compute the same numbers.

A shortcut is used only where it agreed with the plain computation; this switch turns all of them
off, to verify that they do not change results.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "DICTLEARN_SHORTCUTS"
"""The environment variable that turns shortcuts off when it is "off" or "0"."""

_forbidden = 0


def shortcuts_allowed() -> bool:
    """Whether shortcuts may be used."""
    return not _forbidden and os.environ.get(SWITCH, "on").lower() not in ("off", "0", "no")


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """A context in which no shortcut is used, in any thread of this process.

    >>> with without_shortcuts():
    ...     shortcuts_allowed()
    False
    """
    global _forbidden
    _forbidden += 1
    try:
        yield
    finally:
        _forbidden -= 1
