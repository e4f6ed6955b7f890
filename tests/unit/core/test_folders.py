"""Folders of runs that fail, and paths that move with a folder."""

import pytest

from dictlearn.core.errors import StorageError
from dictlearn.core.folders import folder_of_a_run, path_from, path_in, require_writable
from dictlearn.core.own_files import OwnFiles


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "mine" / "a" / "b", tmp_path / "mine" / "own"):
        for run in (folder_of_a_run(folder), OwnFiles(folder, "a run").locked()):
            with pytest.raises(KeyError, match="it was made"), run:
                raise KeyError("it was made" * folder.is_dir())
            assert not list((tmp_path / "mine").iterdir()), "but a folder that was there stays"


def test_what_was_written_stays(tmp_path):
    own = OwnFiles(tmp_path / "a" / "b", "a run")
    with pytest.raises(TypeError), own.locked():
        own.write_json("other", {"text": own.write_text("note", "half"), "no json": object()})
    assert (tmp_path / "a" / "b" / "note").read_text() == "half"
    with own.locked():
        pass
    with pytest.raises(KeyError), own.locked():
        raise KeyError
    assert own.lists("note")


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    require_writable(tmp_path / "a" / "b")
    require_writable(tmp_path)
    assert list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(StorageError, match="required a folder that can be written"):
            require_writable(path)
        with pytest.raises(StorageError), folder_of_a_run(path):
            pass
    assert (tmp_path / "file").exists()


def test_paths_are_relative_where_more_than_the_root_is_shared(tmp_path):
    here, there = tmp_path / "runs" / "sae", str(tmp_path / "text.txt")
    assert path_from(here, there) == "../../text.txt"
    assert path_in(here, "../../text.txt") == there
    assert path_in(here, path_from(here, "/elsewhere/text.txt")) == "/elsewhere/text.txt"
