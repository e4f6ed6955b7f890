"""Commands as a terminal runs them."""

from collections.abc import Callable

import pytest

from dictlearn.cli import main


@pytest.fixture
def refused(monkeypatch, capsys) -> Callable[[str], str]:
    """Runs a command line that has to end with status 2; what it says on standard error."""

    def run(words: str) -> str:
        monkeypatch.setattr("sys.argv", ["dictlearn", *words.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run
