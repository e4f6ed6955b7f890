"""Signs of work appear when it takes a while: bars in a terminal, lines elsewhere."""

import sys
import time
from collections.abc import Callable

import pytest

from dictlearn import progress as module
from dictlearn.progress import Pace, add_times, announced, measured, progress, timed


@pytest.fixture
def until(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Waits for words on standard error; all that was said."""

    def until(words: str) -> str:
        said, end = capsys.readouterr().err, time.monotonic() + 60
        while words not in said and time.monotonic() < end:
            time.sleep(0.001)
            said += capsys.readouterr().err
        return said

    return until


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [0.0]
    monkeypatch.setattr("dictlearn.progress.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize("looks", [False, True])
def test_short_work_is_silent(
    looks: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looks)
    with progress("working", 2) as done, announced("loading"):
        done(1)
        done(2)
    assert capsys.readouterr().err == ""


def test_a_bar_appears_before_the_first_unit_is_done(until, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with progress("working", 2):
        assert "0%" in until("0%"), "a line has no percentage"


def test_a_log_has_a_line_now_and_then(until, monkeypatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.001)
    with progress("working", 4_000) as done:
        assert "working: 0 of 4,000 in 0.0 s\n" in until("\n")
        done(1_000)
        lines = until("1,000").splitlines() + until("left\n").splitlines()
        done(4_000)
        assert "left" not in until("4,000 of").splitlines()[-1]
    assert any("working: 1,000 of 4,000 in 0." in line and " left" in line for line in lines)


def test_hidden_work_stays_hidden(capsys, monkeypatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    with progress("working", 2, show=False) as done:
        done(1)
        time.sleep(0.01)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("looks", [False, True])
def test_long_work_is_announced_once(looks: bool, until, monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looks)
    with announced("loading a model …"):
        said = until("\n")
        time.sleep(0.01)
    assert said + until("") == "loading a model …\n"


def test_the_pace_counts_what_is_new(clock) -> None:
    pace = Pace("training", 2_000, first=1_000)
    clock(60)
    assert str(pace) == "training: 1,000 of 2,000 in 1 min 0 s"
    pace.done = 1_250
    assert str(pace) == "training: 1,250 of 2,000 in 1 min 0 s, about 3 min 0 s left"
    pace.done = 2_000
    assert str(pace) == "training: 2,000 of 2,000 in 1 min 0 s"
    endless = Pace("reading", None)
    endless.done = 7
    assert str(endless) == "reading: 7 in 0.0 s"


def test_times_of_parts_add_up(clock) -> None:
    @timed("train")
    def train(seconds: float) -> None:
        clock(seconds)

    @timed("report")
    def fails() -> None:
        clock(64)
        raise ZeroDivisionError

    train(100)  # nobody measures
    with measured("rest") as seconds:
        clock(1)
        with timed("evaluate"):
            clock(2)
            train(4)
            with measured() as apart:
                train(8)
            clock(16)
        train(32)
        with pytest.raises(ZeroDivisionError):
            fails()
        clock(128)
        add_times({"train": 0.5, "cards": 0.25})
    train(100)
    # The time of a run that measures itself is its own.
    assert seconds == {"rest": 129, "evaluate": 18, "train": 36.5, "report": 64, "cards": 0.25}
    assert apart == {"everything else": 0, "train": 8}
