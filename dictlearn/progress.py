"""Signs of work on standard error, only where it takes longer than a moment."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

PATIENCE = 2.0
"""Seconds before they appear."""


@contextmanager
def progress(
    description: str, total: int | None, *, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of units done so far."""
    hidden = not (show and sys.stderr.isatty())
    bar = Progress(console=Console(stderr=True), transient=True, disable=hidden)
    task = bar.add_task(description, total=total)
    began = time.monotonic()

    def done(units: int) -> None:
        bar.update(task, completed=units)
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield done
    finally:
        bar.stop()


@contextmanager
def announced(text: str) -> Iterator[None]:
    """A context of work that cannot tell how far it is: the text says what it is."""
    shown = threading.Timer(PATIENCE, Console(stderr=True).print, [text], {"highlight": False})
    shown.daemon = True
    if sys.stderr.isatty():
        shown.start()
    try:
        yield
    finally:
        shown.cancel()
