"""Help is printed as it is written."""

import inspect
import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dictlearn.cli import app

GROUP = get_command(app)
COMMANDS = {"": GROUP, **GROUP.commands}


def written(command) -> list[str]:
    """The help strings of a command and its parameters, in the source."""
    texts = [command.help, command.epilog, *(p.help for p in command.params if hasattr(p, "help"))]
    return [inspect.cleandoc(text) for text in texts if text]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_word_of_help_is_printed(name):
    arguments = [name, "--help"] if name else ["--help"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == 0
    printed = " ".join(re.sub("[─│╭╮╰╯]", " ", done.output).split())
    for text in written(COMMANDS[name]):
        assert " ".join(text.replace("`", "").split()) in printed


def test_sections_of_config_files_are_named_in_brackets():
    assert any("[fit]" in text for text in written(COMMANDS["train"]))
