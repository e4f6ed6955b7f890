"""Edits as text, and positions."""

import json
import re

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.interventions.choice import Activate, Disable
from dictlearn.interventions.direction import Cap, ProjectOut, Push
from dictlearn.interventions.edit import Ablate, Add, Clamp, Scale
from dictlearn.interventions.language import parse_edit, read_edits
from dictlearn.interventions.span import Span

EDITS = {
    "ablate 3": Ablate(3),
    "ablate sae 3,17 at 5:": Ablate((3, 17), at="sae", positions="5:"),
    "clamp codes 17 = 4.0 at 5:": Clamp(17, 4.0, at="codes", positions=slice(5, None)),
    "scale layer1.mlp 2 = -0.5": Scale(2, -0.5, at="layer1.mlp"),
    "add sae2 2 = 1e-05 at 0,4": Add(2, 1e-5, at="sae2", positions=(0, 4)),
    "activate z 5 = all at 2:7": Activate(5, "all", at="z", positions="2:7"),
    "activate z 5,6 = last": Activate((5, 6), at="z"),
    "disable z 5,6 = empty": Disable((5, 6), "empty", at="z"),
    'ablate "my sae" 3,17 at 5:': Ablate((3, 17), at="my sae", positions="5:"),
    'clamp "12" 3 = 4.0': Clamp(3, 4.0, at="12"),
    'clamp "1,2=" 3 = 4.0': Clamp(3, 4.0, at="1,2="),
    "clamp at 3 = 4.0 at 4": Clamp(3, 4.0, at="at", positions=4),
    'ablate "" 3': Ablate(3, at=""),
    r'ablate "say \"sae\"\n\\é" 3': Ablate(3, at='say "sae"\n\\é'),
}
DIRECTIONS = {
    "push sae 9 = 8.0 at :3": Push(9, 8.0, at="sae", positions=slice(3)),
    "project-out sae 9": ProjectOut(9, at="sae"),
    "cap sae 9 = 0.5": Cap(9, 0.5, at="sae"),
}


@pytest.mark.parametrize("text", EDITS)
def test_an_edit_is_the_text_that_it_prints(text):
    assert parse_edit(text) == EDITS[text]
    assert str(EDITS[text]) == text


@for_all(name=st.text(max_size=12))
def test_every_name_can_be_read(name):
    edit = Clamp((3, 4), 1.0, at=name, positions=5)
    assert parse_edit(str(edit)) == edit


@pytest.mark.parametrize("text", DIRECTIONS)
def test_so_is_one_along_a_direction(text):
    found, wanted = parse_edit(text), DIRECTIONS[text]
    assert type(found) is type(wanted)
    assert vars(found) == vars(wanted)
    assert str(wanted) == text


def test_what_need_not_be_said():
    assert parse_edit(" activate  z 5 ") == Activate(5, at="z")
    assert str(Push(torch.ones(3), 2.0, at="blocks.0.hook_resid_post")) == (
        "push blocks.0.hook_resid_post (vector) = 2.0"
    )


@pytest.mark.parametrize(("text", "told"), {
    "ablat sae 3": "no edit 'ablat'.*'ablate'",
    "ablate sae": "VERB NAME FEATURES",
    "ablate sae 3 = 2": "takes no amount",
    "clamp sae 3": "needs a number",
    "clamp sae 3 = much": "needs a number",
    "clamp sae 3 = nan": "finite number",
    "push sae 3,4 = 1": "one feature",
    "ablate sae 3 at :2:": "positions as 5",
    "activate sae 3 = every": "'last' or 'all'",
    "ablate sae 3 at -1": "positions as 5",
    "ablate sae 3,3": "several different",
    "": "VERB NAME FEATURES",
    'ablate "sae 3': "VERB NAME FEATURES",
    r'ablate "\sae" 3': "VERB NAME FEATURES",
    "ablate sae 1" + 5000 * "0": "VERB NAME FEATURES",
    "ablate sae 3 at 1" + 5000 * "0": "positions as 5",
    "push blocks.0.hook_resid_post (vector) = 2.0": "VERB NAME FEATURES",
}.items())  # fmt: skip
def test_what_cannot_be_read(text, told):
    with pytest.raises(InputError, match=told):
        parse_edit(text)


@pytest.mark.untyped
@pytest.mark.parametrize("given", [None, 3, b"ablate 3", ["ablate 3"]])
def test_what_is_no_text(given):
    with pytest.raises(InputError, match="VERB NAME FEATURES"):
        parse_edit(given)


def test_spans():
    positions = torch.tensor([[-2, -1, 0, 1, 2, 3]])
    for given, wanted in (
        (None, [0, 1, 2, 3]), ("1:", [1, 2, 3]), (":2", [0, 1]), (slice(1, 3), [1, 2]), (2, [2]),
        ((0, 3), [0, 3]), ("0,3", [0, 3]), (range(1, 3), [1, 2]), (":", [0, 1, 2, 3]),
    ):  # fmt: skip
        assert positions[Span.of(given).holds(positions)].tolist() == wanted
        assert Span.of(str(Span.of(given))) == Span.of(given)


def test_edits_from_a_file(tmp_path):
    file = tmp_path / "edits.toml"
    file.write_text("edits = " + json.dumps([*EDITS, *DIRECTIONS]))
    assert list(map(str, read_edits(file))) == [str(e) for e in (EDITS | DIRECTIONS).values()]
    for text, told in (
        ("edits = 3", "a list 'edits'"), ("edits = []\nmore = 1", "a list 'edits'"),
        ("edits = ['ablatte 3']", f"{file}: no edit 'ablatte'; did you mean 'ablate'"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(InputError, match=re.escape(told)):
            read_edits(file)
    file.write_text("edits = [")
    with pytest.raises(CorruptFileError, match="TOML"):
        read_edits(file)
