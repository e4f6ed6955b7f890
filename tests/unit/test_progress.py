"""The bar shows itself only to a person, and only when work takes a while."""

import sys
import time

import pytest

from dictlearn.progress import announced, progress


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("working", 2) as done:
        done(1)
        done(2)
    assert capsys.readouterr().err == ""


def test_progress_appears_once_patience_is_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("dictlearn.progress.PATIENCE", -1.0)
    with progress("working", 2) as done:
        done(1)
    assert "working" in capsys.readouterr().err


@pytest.mark.parametrize(("patience", "seen"), [(0.0, True), (60.0, False)])
def test_long_work_is_announced(
    patience: float, seen: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dictlearn.progress.PATIENCE", patience)
    said = ""
    for looks in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda looks=looks: looks)
        end = time.monotonic() + (60 if seen and looks else 0)
        with announced("loading a model …"):
            while not said and time.monotonic() < end:
                said += capsys.readouterr().err
        assert said == ("loading a model …\n" if seen and looks else "")
