"""A dozen kills; `make torture` makes 200. And the comparison of folders notices what it must."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dictlearn.core.own_files import OwnFiles
from tests.torture.folders import LIST_FILE, LOCK_FILE, LOG_FILE, differences


def test_commands_that_are_killed_end_as_if_they_were_not():
    command = [sys.executable, "-m", "tests.torture", "--kills", "12", "--seed", "1"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def folders(tmp_path):
    """Two equal folders, written at different times."""
    for name, seconds in {"found": 1.0, "wanted": 2.0}.items():
        own = OwnFiles.of(tmp_path / name)
        own.write_text("a", "same")
        own.write_text(LOG_FILE, json.dumps({"step": 1, "seconds": seconds}) + "\n")
    return tmp_path / "found", tmp_path / "wanted"


def test_folders_that_differ_in_time_alone_are_equal(folders):
    (folders[0] / LOCK_FILE).write_text("left by a killed process")
    assert differences(*folders) == []


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda folder: (folder / ".a.x.part").touch(), ["stray .a.x.part"]),
        (lambda folder: (folder / "inner").mkdir(), ["stray inner"]),
        (lambda folder: OwnFiles.of(folder).write_text("a", "other"), ["different a"]),
        (lambda folder: OwnFiles.of(folder).grow("a"), [f"{LIST_FILE} is wrong about a"]),
        (
            lambda folder: (folder / LOG_FILE).write_text('{"step": 2}'),
            [f"different {LOG_FILE}", f"{LIST_FILE} is wrong about {LOG_FILE}"],
        ),
        (
            lambda folder: OwnFiles.of(folder).remove("a"),
            ["missing a", f"different {LIST_FILE}"],
        ),
    ],
)  # fmt: skip
def test_folders_that_differ_are_told_apart(folders, act, told):
    act(folders[0])
    assert differences(*folders) == told
