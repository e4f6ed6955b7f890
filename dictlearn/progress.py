"""Signs of work that takes longer than a moment, on standard error; and the times of its parts.

A terminal has bars. A log, a pipe or a notebook gets a line every ten seconds.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress

PATIENCE = 2.0
"""Seconds before a bar, or the name of work without one, appears."""
EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


def in_terminal() -> bool:
    """Whether standard error is a terminal, which can redraw a bar."""
    return sys.stderr.isatty()


def in_words(seconds: float) -> str:
    """A duration.

    >>> in_words(3.21), in_words(65), in_words(7384)
    ('3.2 s', '1 min 5 s', '2 h 3 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Pace:
    """How far work is, in words: units done, time passed, and time left at the same pace."""

    def __init__(self, description: str, total: int | None, first: int = 0) -> None:
        self.done = first
        """The number of units done so far, of which `first` were done before."""
        self._description, self._total, self._first = description, total, first
        self._began = time.monotonic()

    def __str__(self) -> str:
        passed, new = time.monotonic() - self._began, self.done - self._first
        said = f"{self._description}: {self.done:,}"
        said += "" if self._total is None else f" of {self._total:,}"
        said += f" in {in_words(passed)}"
        if self._total is None or new <= 0 or self.done >= self._total:
            return said
        return f"{said}, about {in_words(passed / new * (self._total - self.done))} left"


@contextmanager
def progress(
    description: str, total: int | None, *, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of units done so far."""
    if show and in_terminal():
        with _bar(description, total) as advance:
            yield advance
        return
    pace = Pace(description, total)
    with lines(lambda: str(pace), show=show):
        yield lambda units: setattr(pace, "done", units)


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(description, total=total)
    try:
        with _meanwhile(bar.start, PATIENCE):
            yield lambda units: bar.update(task, completed=units)
    finally:
        bar.stop()


@contextmanager
def announced(text: str) -> Iterator[None]:
    """A context of work that cannot tell how far it is: the text says what it is."""
    with _meanwhile(lambda: _say(text), PATIENCE):
        yield


@contextmanager
def lines(told: Callable[[], str], *, show: bool = True) -> Iterator[None]:
    """A context of work about which a line is printed every ten seconds, without a terminal."""
    if not show or in_terminal():
        yield
        return
    with _meanwhile(lambda: _say(told()), EVERY, EVERY):
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _meanwhile(act: Callable[[], None], first: float, then: float | None = None) -> Iterator[None]:
    """A context during which a thread acts after `first` seconds, and every `then` seconds."""
    ended = threading.Event()

    def watch() -> None:
        wait: float | None = first
        while not ended.wait(wait):
            act()
            wait = then  # without end, if it is None

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Clock:
    """Seconds by part of a run; a part within another is not counted for both."""

    def __init__(self, rest: str) -> None:
        self.seconds = {rest: 0.0}
        self._parts, self._since = [rest], time.monotonic()

    def enter(self, part: str) -> None:
        self.turn()
        self._parts.append(part)

    def leave(self) -> None:
        self.turn()
        self._parts.pop()

    def go_on(self) -> None:
        self._since = time.monotonic()

    def turn(self) -> None:
        now, part = time.monotonic(), self._parts[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


_clock: ContextVar[_Clock | None] = ContextVar("_clock", default=None)


@contextmanager
def measured(rest: str = "everything else") -> Iterator[dict[str, float]]:
    """The seconds that each part (`timed`) of the block took, by name, complete at its end.

    Time in a part within another counts for the inner one alone, so they add up to the time of the
    block; `rest` is the time in no part. What other threads and processes do is not measured. A
    block within another measures for itself: `add_times` adds what it found to the outer one.
    """
    outer, clock = _clock.get(), _Clock(rest)
    if outer is not None:
        outer.turn()
    token = _clock.set(clock)
    try:
        yield clock.seconds
    finally:
        clock.leave()
        _clock.reset(token)
        if outer is not None:
            outer.go_on()


@contextmanager
def timed(part: str) -> Iterator[None]:
    """A part of a run, or a decorator of a function that is one."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    clock.enter(part)
    try:
        yield
    finally:
        clock.leave()


def add_times(seconds: Mapping[str, float]) -> None:
    """Add times that were measured apart, perhaps in another process, to those of this run."""
    if (clock := _clock.get()) is not None:
        for part, more in seconds.items():
            clock.seconds[part] = clock.seconds.get(part, 0.0) + more
