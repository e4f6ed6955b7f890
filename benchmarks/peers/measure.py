"""Times taken in turn: a busy machine slows every contender alike, so ratios stay true."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

Work = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """The median of some measurements, and the range that they fell into."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least one value.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(median=2.0, low=1.0, high=3.0)
        """
        ordered = sorted(values)
        if not ordered:
            raise ValueError("required at least one measurement, got none")
        return cls(median(ordered), ordered[0], ordered[-1])

    def __str__(self) -> str:
        """The median with the range in brackets, to three significant digits.

        >>> str(Spread(12.345, 9.8, 131.0))
        '12.3 (9.80 to 131)'
        """
        if self.low == self.high:
            return digits(self.median)
        return f"{digits(self.median)} ({digits(self.low)} to {digits(self.high)})"


def digits(value: float) -> str:
    """A number to three significant digits, without an exponent.

    >>> digits(0.01234), digits(4.5), digits(98765.4)
    ('0.0123', '4.50', '98,800')
    """
    rounded = float(f"{value:.3g}")
    places = max(0, 2 - math.floor(math.log10(abs(rounded)))) if rounded else 0
    return f"{rounded:,.{places}f}"


def seconds(work: Work, clock: Clock = time.perf_counter) -> float:
    """The time of one call."""
    start = clock()
    work()
    return clock() - start


@dataclass(frozen=True)
class Timing:
    """One contender's times, one a round, each beside that of the unit measured just before."""

    seconds: tuple[float, ...]
    unit_seconds: tuple[float, ...]

    def units(self) -> Spread:
        """The time in units of the reference work."""
        return Spread.of(s / u for s, u in zip(self.seconds, self.unit_seconds, strict=True))

    def times(self, other: "Timing") -> Spread:
        """The ratio of this time to that of `other`, by round.

        Both are taken in units first, so that what slowed only one of the two for a while, and
        the unit beside it, cancels.
        """
        mine = [s / u for s, u in zip(self.seconds, self.unit_seconds, strict=True)]
        theirs = [s / u for s, u in zip(other.seconds, other.unit_seconds, strict=True)]
        return Spread.of(a / b for a, b in zip(mine, theirs, strict=True))


def in_turn(
    contenders: Mapping[str, Work],
    *,
    rounds: int,
    unit: Work | None = None,
    warm_up: bool = True,
    clock: Clock = time.perf_counter,
    done: Callable[[str], object] = lambda label: None,
) -> dict[str, Timing]:
    """The times of all contenders, from rounds in which each has one turn.

    In every round each contender's call stands right behind one of `unit`, the work that ratios
    are taken to (without it the unit is a second). One call of each goes before, unmeasured.
    """
    for name in contenders if warm_up else ():
        done(f"{name}: first call")
        contenders[name]()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, work in contenders.items():
            done(f"{name}: round {turn + 1} of {rounds}")
            unit_seconds = seconds(unit, clock) if unit else 1.0
            taken[name].append((seconds(work, clock), unit_seconds))
    return {
        name: Timing(tuple(s for s, _ in pairs), tuple(u for _, u in pairs))
        for name, pairs in taken.items()
    }
