"""Terminal output, and the options that a command passes on."""

import os
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from dictlearn.core.errors import InputError

if TYPE_CHECKING:
    import typer

    from dictlearn.records.results import Records

console = Console()
if not console.is_terminal:  # a log or a pipe has no width: leave tables whole
    console = Console(width=max(console.width, 130))
console.quiet = os.environ.get("RANK", "0") != "0"  # torchrun: the first process speaks for all


def say(text: str) -> None:
    """Print `text` as it is: brackets are not markup, and numbers are not highlighted."""
    console.print(text, highlight=False, markup=False)


def show(records: "Records") -> None:
    """Print the tables of `records`."""
    from dictlearn.comparison.tables.terminal import tables

    console.print(*tables(records))


def show_times(seconds: Mapping[str, float]) -> None:
    """Print a table of the parts of a run that took a tenth of a second or more."""
    from rich.table import Table

    from dictlearn.progress import in_words

    table = Table("part", "time", box=None, pad_edge=False)
    for part, own in sorted(seconds.items(), key=lambda item: -item[1]):
        if own >= 0.1:
            table.add_row(escape(part), in_words(own))
    console.print(table)


def with_times(command: Callable[..., None]) -> Callable[..., None]:
    """A command that ends with a table of the seconds of its parts (`progress.timed`)."""

    @wraps(command)
    def timed_command(*arguments: Any, **options: Any) -> None:
        from dictlearn.progress import measured

        with measured() as seconds:
            command(*arguments, **options)
        show_times(seconds)

    return timed_command


_PYTHON = r"\b\w+=\w*"
_WITH_OPTION = re.compile(rf"{_PYTHON}(?:, (?=--)| \((--[^()]*)\))")
_IN_PYTHON = re.compile(r" \(in Python, [^()]*\)")
_MISSING = re.compile(r"(?<!\]: )\b\w*Config needs a value for ([\w, ]+)")
_FIELD = re.compile(r"(?<!\]: )\b\w*Config\.(\w+)")


def in_options(message: str) -> str:
    """An error message of the library in the words of the command line.

    Where it names an argument in Python and the option in brackets, the option alone is left, and
    the field of a config, unless it is in a file, is an option by the same name. What stands in
    brackets as "(in Python, …)" is left out.

    >>> in_options("overwrite that run (overwrite=True, --overwrite)")
    'overwrite that run (--overwrite)'
    >>> in_options("give other text, or exclude_special=False (--include-special)")
    'give other text, or --include-special'
    >>> in_options("FitConfig.batch_size must be at least 1, got 0")
    '--batch-size must be at least 1, got 0'
    >>> in_options("TopKSAEConfig needs a value for n_features, k")
    'required --n-features, --k'
    >>> in_options("unknown kind 'a' (in Python, pass kinds=[MyConfig])")
    "unknown kind 'a'"
    """
    message = _IN_PYTHON.sub("", message)
    message = _MISSING.sub(lambda found: f"required --{_dashed(found[1])}", message)
    message = _WITH_OPTION.sub(lambda found: found[1] or "", message)
    return _FIELD.sub(lambda found: f"--{_dashed(found[1])}", message)


def _dashed(names: str) -> str:
    return names.replace("_", "-").replace(", ", ", --")


def named_feature(text: str) -> tuple[str, int] | None:
    """Dictionary and number of "NAME NUMBER"; None if it is of another form.

    >>> named_feature("my sae 17"), named_feature("sae")
    (('my sae', 17), None)
    """
    name, _, number = text.rpartition(" ")
    return (name, int(number)) if name and number.isdecimal() else None


def numbers(text: str, option: str) -> list[int]:
    """The whole numbers in a list with commas, which is the value of an option.

    Raises:
        InputError: it is of another form, or a number is repeated.

    >>> numbers("3,17", "--features")
    [3, 17]
    """
    words = text.replace(" ", "").split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise InputError(
            f"required {option} as a whole number from 0 on, or several different ones, as in "
            f"0,1,2; got {text!r}"
        )
    return list(map(int, words))


def given_fields(context: "typer.Context") -> dict[str, Any]:
    """The config fields among a command's arguments (`leftover_fields`).

    Raises:
        InputError: an argument was left out, so that the first of these options stands for it.
    """
    for parameter in context.command.params:
        value = str(context.params.get(parameter.name or ""))
        if parameter.param_type_name == "argument" and value.startswith("--"):
            usage = " ".join(context.command.get_usage(context).split()).lower()
            raise InputError(f"required argument {parameter.name!r}, got {value!r}; {usage}")
    return leftover_fields(context.args)


def leftover_fields(arguments: list[str]) -> dict[str, Any]:
    """Config fields from the remaining `--some-field value` pairs; repeated ones become a list."""
    from dictlearn.config_files import parse_value

    fields: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if not flag.startswith("--") or (not equals and not queue):
            raise InputError(f"required --field value, got {flag!r} without one")
        name, found = flag[2:].replace("-", "_"), parse_value(value if equals else queue.pop(0))
        if name in fields:
            before = fields[name]
            found = [*(before if isinstance(before, list) else [before]), found]
        fields[name] = found
    return fields
