"""Lists on the command line: of what a model or a kind has, and of the searches of a machine."""

import dataclasses

from typer.testing import CliRunner

from dictlearn.cli import app
from dictlearn.core.files import write_json
from dictlearn.core.shortcuts import SWITCH
from dictlearn.dictionaries.registry import KINDS
from dictlearn.kernels import fastest, kept
from dictlearn.kernels.fastest import Timings


def listed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    return done.output


def test_the_hook_points_of_a_model_are_listed_by_block_with_widths_and_other_names():
    lines = [line.split() for line in listed("models", "builtin:stories").splitlines()]
    names = "blocks.N.hook_mlp_out", "blocks.N.mlp.hook_out"
    assert [names[0], "128", "0", "to", "3", names[1]] in lines
    assert ["ln_final.hook_out", "128"] in lines
    without = listed("models", "builtin:stories").partition("Without a vector for every token")[2]
    assert "blocks.N.attn.hook_pattern," in without
    assert "builtin:stories" in listed("models")


def test_every_registered_kind_is_listed():
    rows = [line.split(None, 1) for line in listed("kinds").splitlines()[1:]]
    assert [(name, told.strip()) for name, told in rows] == [
        (config.kind, config.__doc__.splitlines()[0]) for config in KINDS
    ]


def test_the_fields_of_a_kind_are_listed_with_their_defaults():
    fields = [line.split() for line in listed("kinds", "topk_sae").splitlines()]
    assert ["--n-features", "a", "whole", "number", "required"] in [line[:5] for line in fields]


def test_doctor_shows_searches_and_which_of_them_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv(kept.FOLDER, str(tmp_path))
    timings = Timings("this processor", int8=0.81, int8_search=0.9)
    write_json(fastest.path(), dataclasses.asdict(timings))
    fastest.timings.cache_clear()
    lines = listed("doctor").splitlines()
    assert lines[0] == "this processor"
    assert [line.rstrip().split("  ")[-1].strip() for line in lines[2:6]] == [
        "no", "no", "yes", "refused: it takes 1.11 times as long as an exact search"
    ]  # fmt: skip
    assert "not on this processor" in lines[3]
    assert "0.81" in lines[4]
    assert str(fastest.path()) in "".join(lines[6:])
    monkeypatch.setenv(SWITCH, "off")
    lines = listed("doctor").splitlines()
    assert lines[2].rstrip().endswith("yes")
    assert SWITCH in "".join(lines[6:])
    monkeypatch.setattr(fastest, "_TRIAL", (64, 128, 64, 8))
    assert listed("doctor", "--again").splitlines()[0] != "this processor"
    fastest.timings.cache_clear()
