"""The switch for all shortcuts: faster code paths that compute the same numbers.

A shortcut is used only where it agreed with the plain computation; this switch turns all of them
off, to verify that they do not change results.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dictlearn.core.errors import ConfigError

SWITCH = "DICTLEARN_SHORTCUTS"
"""The environment variable that turns shortcuts on or off; unset, they are on."""
_ON, _OFF = ("", "on", "1", "yes", "true"), ("off", "0", "no", "false")

_forbidden = 0


def shortcuts_allowed() -> bool:
    """Whether shortcuts may be used.

    Raises:
        ConfigError: the environment variable is neither "on" nor "off".
    """
    value = os.environ.get(SWITCH, "")
    if value.lower() not in _ON + _OFF:
        raise ConfigError(f'the environment variable {SWITCH} needs "on" or "off", got {value!r}')
    return not _forbidden and value.lower() in _ON


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
