"""The one switch for every shortcut: the same numbers, computed in a faster way.

A shortcut is taken only where it was tried against the plain computation; this switches all of
them off, so that anyone can see for themselves that they change nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "DICTLEARN_SHORTCUTS"
"""The environment variable that switches shortcuts off when it is "off" or "0"."""

_forbidden = 0


def shortcuts_allowed() -> bool:
    """Whether the plain computation may be replaced by a faster one that was tried against it."""
    return not _forbidden and os.environ.get(SWITCH, "on").lower() not in ("off", "0", "no")


@contextmanager
def without_shortcuts() -> Iterator[None]:
    """Within, every computation is the plain one, in all threads of this process.

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
