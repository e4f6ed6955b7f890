"""A list of own files: nothing else is written over or removed, whatever the list says."""

import json
import os
from pathlib import Path

import pytest
import torch

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.file_lists import LIST_FILE, is_file_name
from dictlearn.core.files import read_json, write_json
from dictlearn.core.own_files import OwnFiles


@pytest.fixture
def own(tmp_path) -> OwnFiles:
    """A run with two files in its folder and one in a folder inside, beside a user's."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    own = OwnFiles(folder, "a study")
    own.write_text("a", "old")
    own.write_tensors("b", {"x": torch.ones(2)}, {})
    own.folder("inner", "deep", run="training").write_json("c", {"k": 1})
    return own


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != LIST_FILE}


def edit(own: OwnFiles, change) -> None:
    data = json.loads((own.path / LIST_FILE).read_text())
    change(data["runs"]["a study"])
    write_json(own.path / LIST_FILE, data)


def test_own_files_are_replaced_and_removed_and_no_others(own):
    own.write_text("a", "new")
    assert (own.path / "a").read_text() == "new"
    own.remove("b", "never written")
    assert not own.lists("b")
    (own.path / "inner" / "mine").write_text("mine")
    own.clear()
    assert names(own.path) == {"mine", "inner", "inner/mine"}
    assert not list(own.path.rglob(LIST_FILE))
    own.clear()


def test_folders_that_were_there_stay(own):
    (own.path / "given").mkdir()
    own.folder("given").write_text("d", "")
    own.clear()
    assert names(own.path) == {"mine", "given"}


@pytest.mark.parametrize("act", ["write_text", "remove", "grow"])
def test_files_on_no_list_are_refused_by_name(own, act):
    with pytest.raises(InputError, match=r"run/mine is not a file that a study wrote here"):
        getattr(own, act)("mine", *(["x"] if act == "write_text" else []))
    assert (own.path / "mine").read_text() == "mine"


def test_another_kind_of_run_is_refused(own):
    other = OwnFiles(own.path, "harvest")
    with pytest.raises(InputError, match="of another kind of run, a study"):
        other.write_text("a", "x")
    other.write_text("shard", "x")
    other.clear()
    assert names(own.path) == {"mine", "a", "b", "inner", "inner/deep", "inner/deep/c"}


def test_a_file_that_changed_is_refused_and_nothing_removed(own):
    (own.path / "inner" / "deep" / "c").write_text("edited")
    before = names(own.path)
    with pytest.raises(InputError, match=r"deep/c has changed since training wrote it"):
        own.clear()
    assert names(own.path) == before
    (own.path / "a").write_text("odl")  # of equal size
    with pytest.raises(InputError, match="a has changed"):
        own.write_text("a", "new")


def test_a_file_that_was_only_touched_or_copied_is_own(own):
    os.utime(own.path / "a", (1, 1))
    own.write_text("a", "new")
    assert (own.path / "a").read_text() == "new"


def test_a_file_that_grows_is_own_until_it_is_adopted(own):
    own.grow("a")
    with (own.path / "a").open("a") as file:
        file.write("er")
    own.require("a")
    own.adopt("a")
    own.require("a")
    with (own.path / "a").open("a") as file:
        file.write("!")
    with pytest.raises(InputError, match="a has changed"):
        own.require("a")
    own.adopt("a")  # what is listed is not adopted again
    with pytest.raises(InputError, match="a has changed"):
        own.require("a")


class Killed(BaseException):
    """Ends everything at once."""


@pytest.mark.parametrize("at", ["replace", "fsync"])
@pytest.mark.parametrize("name", ["a", "new"])
def test_a_kill_leaves_no_file_that_blocks(own, monkeypatch, at, name):
    """At each of the writes to the disk, of lists and of files, in turn."""
    real = getattr(os, at)
    for step in range(4):
        calls = []

        def dies(*arguments, step=step, calls=calls):
            calls.append(arguments)
            if len(calls) > step:
                raise Killed
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, at, dies)
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # the dead tidy nothing up
            try:
                own.write_text(name, f"text {step}")
            except Killed:
                assert len(calls) == step + 1
        own.write_text(name, f"after {step}")
        assert (own.path / name).read_text() == f"after {step}"
    own.clear()
    assert names(own.path) == {"mine"}, "nor any temporary file"
    assert not list(own.path.glob(".*"))


def test_a_run_removes_what_killed_ones_left_in_its_folders(own):
    deep = own.path / "inner" / "deep"
    mark = json.loads((deep / LIST_FILE).read_text())["mark"]
    (deep / f".c.abc.{mark}.part").write_text("half")
    (deep / f".{LIST_FILE}.abc.{mark}.part").write_text("half")
    (deep / f".d.folder.abc.{mark}.part").mkdir()
    (deep / f".d.folder.abc.{mark}.part" / ".tmpXYZ").write_text("of safetensors")
    (deep / ".theirs.part").write_text("mine")
    with own.locked():
        assert {path.name for path in deep.glob(".*")} == {".theirs.part"}


def test_the_first_list_of_a_folder_may_be_left_half_written(tmp_path):
    left = tmp_path / f".{LIST_FILE}.abc.0a1b2c3d.part"  # its mark is on no list
    left.write_text("half")
    OwnFiles(tmp_path, "a study").write_text("a", "")
    assert not left.exists()


def outside(own: OwnFiles) -> Path:
    path = own.path.parent / "precious"
    path.mkdir()
    (path / "a").write_text("old")  # what the list has of a file of that name
    return path


@pytest.mark.parametrize("name", ["../precious/a", "/etc/passwd", "..", ".", "", "x/a", "x\\a"])
@pytest.mark.parametrize("part", ["files", "folders"])
def test_a_list_that_leads_out_is_refused(own, name, part):
    precious = outside(own)
    entry = {"files": None, "folders": {"run": "a study", "made": True}}[part]
    edit(own, lambda mine: mine[part].update({name: entry}))
    before = names(own.path)
    for act in (own.clear, lambda: own.write_text("a", "x"), lambda: own.remove(name)):
        with pytest.raises((CorruptFileError, InputError), match=r"not a name|the name of"):
            act()
    assert names(own.path) == before
    assert (precious / "a").read_text() == "old"


@pytest.mark.parametrize(
    "change",
    [
        {"runs": 1}, {"runs": {"a study": {}}}, {"mark": "*"}, {"mark": None},
        {"runs": {"a study": {"files": {"a": [{"sha256": "0"}]}, "folders": {}}}},
        {"runs": {"a study": {"files": {}, "folders": {"inner": {"run": 1, "made": True}}}}},
    ],
)  # fmt: skip
def test_a_malformed_list_is_refused(own, change):
    path = own.path / LIST_FILE
    write_json(path, read_json(path) | change)
    with pytest.raises(CorruptFileError, match="an entry is missing or malformed"):
        own.clear()


def test_links_are_not_followed(own):
    precious = outside(own)
    (own.path / "a").unlink()
    (own.path / "a").symlink_to(precious / "a")
    with pytest.raises(InputError, match="a has changed"):
        own.clear()
    with pytest.raises(InputError, match="a has changed"):
        own.write_text("a", "x")
    (own.path / "a").unlink()
    (own.path / "inner").rename(own.path.parent / "moved")
    (own.path / "inner").symlink_to(precious)
    for act in (own.clear, lambda: own.folder("inner"), lambda: own.folder("inner", "deep")):
        with pytest.raises(InputError, match="is a link"):
            act()
    (own.path / "inner").unlink()
    (own.path / LIST_FILE).rename(precious / "list")
    (own.path / LIST_FILE).symlink_to(precious / "list")
    with pytest.raises(CorruptFileError, match="got a link"):
        own.clear()
    assert (precious / "a").read_text() == "old"
    assert names(precious) == {"a", "list"}


def test_a_folder_of_another_run_is_not_taken_over(own):
    OwnFiles.of(own.path / "theirs", "training").write_text("c", "")
    with pytest.raises(InputError, match="files of another run"):
        own.folder("theirs")
    own.clear()
    assert names(own.path) == {"mine", "theirs", "theirs/c"}


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", ".", "", LIST_FILE, "C:a", "/a", "a\0", 7])
def test_names_that_are_paths(name):
    assert not is_file_name(name)
