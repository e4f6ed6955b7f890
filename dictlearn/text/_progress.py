"""A progress bar that appears on standard error only where work takes longer than a moment."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

PATIENCE = 2.0
"""Seconds before the bar appears."""


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of units done so far."""
    hidden = not sys.stderr.isatty()
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
