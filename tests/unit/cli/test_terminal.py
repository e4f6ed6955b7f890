"""What commands print, apart from what it is about."""

import time

import pytest

from dictlearn.cli.terminal import in_options, show_times, with_times
from dictlearn.progress import timed


def test_times_of_parts_longest_first_without_those_of_a_moment(capsys):
    show_times({"report": 0.01, "harvest": 2.0, "train [a]": 65.0})
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [" ".join(" ".join(row).split()) for row in rows] == [
        "part time", "train [a] 1 min 5 s", "harvest 2.0 s"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("pass it as init=, --init), or leave it", "pass it as --init), or leave it"),
        ("another column (column=, --column)", "another column (--column)"),
        ("load it with ids_column= (--ids-column)", "load it with --ids-column"),
        ("leave it off (int8_search=False, --int8-search false): x",
         "leave it off (--int8-search false): x"),
        ("a.toml: [fit]: FitConfig.steps must be 1", "a.toml: [fit]: FitConfig.steps must be 1"),
        ("/a/k=3/b holds a store", "/a/k=3/b holds a store"),
        ("in Python: kinds=[MyConfig]", "in Python: kinds=[MyConfig]"),
    ],
)  # fmt: skip
def test_messages_name_options(message, told):
    assert in_options(message) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("trian", "no such command 'trian'. Did you mean 'train'? (dictlearn --help)"),
        ("harvest", "missing option '--out' (dictlearn harvest --help)"),
        ("harvest --out", "option '--out' requires an argument"),
        ("harvest --token 5", "no such option: --token "),
        ("blind gues", "no such command 'gues'. Did you mean 'guess'? (dictlearn blind --help)"),
        ("train a --out b --steps x", "invalid value for '--steps'"),
        ("info nowhere", "nowhere: required a dictionary's folder"),
    ],
)
def test_all_errors_have_one_form(words, told, refused):
    (line,) = refused(words).splitlines()
    assert line.startswith(f"error: {told}")


def test_a_command_ends_with_the_times_of_its_parts(capsys):
    @with_times
    def command(name: str) -> None:
        """Told."""
        with timed("a part"):
            time.sleep(0.2)
        print(name)

    command("done")
    name, head, part, *_ = capsys.readouterr().out.splitlines()
    assert (name, head.split(), part.split()[:2]) == ("done", ["part", "time"], ["a", "part"])
    assert command.__doc__ == "Told."
