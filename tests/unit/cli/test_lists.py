"""What a model or a kind has, as the command line lists it."""

from typer.testing import CliRunner

from dictlearn.cli import app


def listed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 0
    return done.output


def test_the_hook_points_of_a_model_are_listed_one_a_line():
    assert "blocks.0.hook_resid_post" in listed("models", "builtin:stories").splitlines()
    assert "builtin:stories" in listed("models")


def test_the_fields_of_a_kind_are_listed_with_their_defaults():
    fields = [line.split() for line in listed("kinds", "topk_sae").splitlines()]
    assert ["--n-features", "a", "whole", "number", "required"] in [line[:5] for line in fields]
