"""SIGINT and SIGTERM, held back until a run has reached a place at which it can be continued."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A run that has ended because it was asked to, with its state saved."""


class Interruption:
    """The request to end, if there was one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def hold(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal. A second one ends the run at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """A block in which signals are noted; they are delivered when it is left.

    Signals that the process ignores, and all in a thread other than the main one, stay as they are.
    """
    held = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, held.hold)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held.signal is not None:
            signal.raise_signal(held.signal)
