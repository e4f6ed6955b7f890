"""One process in a folder at a time; a lock whose holder is gone holds nobody up."""

import os
import subprocess
import sys

import pytest

from dictlearn.core.errors import StorageError
from dictlearn.core.locks import LOCK_FILE, locked

HOLDER = """
import sys
from pathlib import Path
from dictlearn.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_by_name_of_its_holder(tmp_path, holder):
    words = rf"in use by process {holder.pid} on \S+: wait"
    with pytest.raises(StorageError, match=words), locked(tmp_path):
        pass
    holder.communicate()  # it ends
    with locked(tmp_path) as outermost:
        assert outermost
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK_FILE).exists()
    with locked(tmp_path) as outermost:
        assert outermost
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()
    assert not list(tmp_path.iterdir())


def test_blocks_of_one_process_may_be_nested(tmp_path):
    with locked(tmp_path), locked(tmp_path) as outermost:
        assert not outermost
        assert (tmp_path / LOCK_FILE).exists()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be locked"), locked(tmp_path / "file"):
        pass
