"""The command line."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from dictlearn.cli.blind import blind
from dictlearn.cli.circuits import attribute
from dictlearn.cli.doctor import doctor
from dictlearn.cli.folders import export, import_, info, show
from dictlearn.cli.lists import kinds, models
from dictlearn.cli.measuring import compare, evaluate
from dictlearn.cli.reporting import report
from dictlearn.cli.steering import steer
from dictlearn.cli.studies import bench, demo
from dictlearn.cli.terminal import in_options, say, with_times
from dictlearn.cli.training import harvest, train
from dictlearn.core.errors import DictLearnError, InputError

_OTHER_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def _version(wanted: bool) -> bool:
    if wanted:
        say(f"dictlearn {metadata.version('dictlearn')}")
        raise typer.Exit
    return wanted  # typer puts what a callback returns in the place of the option


# Click's `UsageError`; typer brings click along under a private name.
_UsageError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """The group of all commands, which take `--version` as the group does.

    A command line that is wrong is an `InputError`, like all other wrong input.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments of the command; the option may be among them."""
        _version("--version" in args)
        with _as_input_error():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """The command among the arguments, parsed and run."""
        with _as_input_error():
            return super().invoke(ctx)


@contextmanager
def _as_input_error() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if not error.format_message():  # no arguments at all, for which help is shown
            raise
        told = error.format_message().rstrip(".")
        asked = f" ({error.ctx.command_path} --help)" if error.ctx else ""
        raise InputError(told[0].lower() + told[1:] + asked) from error


app = typer.Typer(
    name="dictlearn",
    cls=_Commands,
    help="Train, evaluate and compare feature dictionaries (codebooks, sparse autoencoders, "
    "transcoders) on the activations of language models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",  # "rich" takes a word in brackets for a style, and drops it
    pretty_exceptions_enable=False,
)


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


app.command()(demo)
app.command()(models)
app.command()(kinds)
app.command()(doctor)
app.command()(with_times(harvest))
app.command(
    context_settings=_OTHER_OPTIONS,
    epilog="All other options are hyperparameters of the kind; `dictlearn kinds KIND` lists them.",
)(train)
app.command()(with_times(evaluate))
app.command()(with_times(report))
app.command()(compare)
app.command()(info)
app.command()(show)
app.command()(export)
app.command("import")(import_)
app.command()(steer)
app.command()(attribute)
app.add_typer(blind)
app.command(
    context_settings=_OTHER_OPTIONS,
    epilog="All other options are parameters of the study, such as --model FOLDER --n-seeds 2.",
)(bench)


def main() -> None:
    """Run the command line; a `DictLearnError` is printed and gives exit status 2.

    SIGINT gives status 130, SIGTERM 143, after files in work are closed or removed.
    """
    before = {
        number: signal.signal(number, _exit)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        app()
    except DictLearnError as error:
        told = f"[bold red]error:[/] {escape(in_options(str(error)))}"
        Console(stderr=True).print(told, highlight=False, soft_wrap=True)  # paths stay whole
        sys.exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    Console(stderr=True).print(
        f"ended by {signal.Signals(number).name}; where a checkpoint was written, the same command "
        "continues from there (without --overwrite)",
        highlight=False,
    )
    sys.exit(128 + number)
