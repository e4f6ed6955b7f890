"""The bar shows itself only to a person, and only when work takes a while."""

import sys

import pytest

from dictlearn.progress import progress


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
