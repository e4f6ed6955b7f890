"""Provenance travels, and forbids a dictionary on another model."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import dictlearn
from dictlearn.core.errors import ProvenanceError
from dictlearn.core.provenance import Provenance, code_revision, library_versions
from dictlearn.training.checkpoints import differences

TRAINED = Provenance(
    model="small", model_hash="a" * 64, weight_processing="none", text_hash="t", split="train",
    exclude_special=False, seed=3,
)  # fmt: skip

PACKAGE = Path(dictlearn.__file__).parent


def test_round_trip_ignores_later_fields():
    assert Provenance.from_dict(TRAINED.to_dict() | {"from_the_future": 1}) == TRAINED
    assert Provenance.from_dict({}) == Provenance()


def test_paths_stay_in_folders_and_move_with_them(tmp_path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    found = replace(TRAINED, model_path="/data/model", text_path=str(project / "a.txt"))
    assert not {"model_path", "text_path"} & found.to_dict().keys()
    written = found.to_dict(project / "runs" / "sae")
    assert written["model_path"] == "/data/model", "only the root in common"
    assert written["text_path"] == "../../a.txt"
    assert Provenance.from_dict(written, project / "runs" / "sae").text_path == found.text_path
    moved = Provenance.from_dict(written, elsewhere / "runs" / "sae")
    assert (moved.model_path, moved.text_path) == ("/data/model", str(elsewhere / "a.txt"))
    assert Provenance.from_dict(written).text_path == "", "seen from nowhere"
    assert moved == found == TRAINED, "the same origin, wherever it lies"
    assert not differences(found.to_compare(), TRAINED.to_compare())


def test_versions_are_recorded_but_not_compared():
    assert {"python", "torch", "dictlearn"} <= library_versions().keys()
    assert Provenance(versions={"torch": "1"}) == Provenance(versions={"torch": "2"})


def test_trained():
    assert TRAINED.trained(4).seed == 4
    assert TRAINED.seed == 3


@pytest.mark.parametrize("hashes", [("a", "a"), ("", "a"), ("a", ""), ("", "")])
def test_the_same_or_an_unknown_model_passes(hashes):
    first, second = (Provenance(model_hash=h) for h in hashes)
    first.require_same_model(second, "sae")


def test_another_model_is_refused_by_name():
    other = Provenance(model="large", model_hash="b" * 64, weight_processing="processed")
    with pytest.raises(ProvenanceError) as caught:
        TRAINED.require_same_model(other, "sae")
    for part in ("'sae'", "'small'", "'large'", "a" * 12, "b" * 12, "processed"):
        assert part in str(caught.value)


def test_runs_that_an_earlier_version_began_compare_equal_to_their_continuation():
    later = replace(TRAINED, weights_hash="b" * 64, dtype="float32", model_check="equal")
    earlier = TRAINED.to_dict()
    assert "dtype" not in earlier
    assert not differences(earlier, later.to_compare())
    assert differences(earlier, replace(later, model_hash="c" * 64).to_compare())


def test_the_revision_is_one_of_git_or_nothing():
    assert re.fullmatch(r"([0-9a-f]{12}(-dirty)?)?", code_revision())


def test_a_package_inside_another_repository_has_no_revision(tmp_path):
    """Installed into an environment in somebody's project, whose commits are not the package's."""
    shutil.copytree(
        PACKAGE, tmp_path / "env" / "dictlearn", ignore=shutil.ignore_patterns("assets")
    )
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    code = "from dictlearn.core.provenance import code_revision; print(repr(code_revision()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "env", capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "env")}, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "''"
