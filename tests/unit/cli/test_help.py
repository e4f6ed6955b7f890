"""Help is printed as it is written."""

import inspect
import re
import subprocess
import sys
from importlib import metadata

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dictlearn.cli import app

GROUP = get_command(app)
STEPS = {
    f"{name} {inner}": command
    for name, group in GROUP.commands.items()
    for inner, command in getattr(group, "commands", {}).items()
}
COMMANDS = {"": GROUP, **GROUP.commands, **STEPS}


def written(command) -> list[str]:
    """The help strings of a command and its parameters, in the source."""
    texts = [command.help, command.epilog, *(p.help for p in command.params if hasattr(p, "help"))]
    return [inspect.cleandoc(text) for text in texts if text]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_word_of_help_is_printed(name):
    arguments = [*name.split(), "--help"]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "400", "TERM": "dumb"})
    assert done.exit_code == 0
    printed = " ".join(re.sub("[─│╭╮╰╯]", " ", done.output).split())
    for text in written(COMMANDS[name]):
        assert " ".join(text.replace("`", "").split()) in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_short_help_and_version(name):
    def run(option):
        return CliRunner().invoke(app, [*name.split(), option])

    assert run("-h").output == run("--help").output
    done = run("--version")
    assert done.exit_code == 0
    assert done.output == f"dictlearn {metadata.version('dictlearn')}\n"


@pytest.mark.parametrize("name", ["--help", "kinds", "models"])
def test_lists_do_not_wait_for_torch(name):
    script = (
        "import sys; from dictlearn.cli import app; "
        f"app([{name!r}], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("\nFalse\n")


def test_sections_of_config_files_are_named_in_brackets():
    assert any("[fit]" in text for text in written(COMMANDS["train"]))
