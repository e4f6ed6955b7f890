"""Commands that list models, hook points, kinds and hyperparameters."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer
from rich.markup import escape
from rich.table import Table

from dictlearn.cli.terminal import console
from dictlearn.core.config import Config, in_words
from dictlearn.lm.builtin import BUILTIN_MODELS

if TYPE_CHECKING:
    from dictlearn.lm.hooks import LanguageModel


def models(
    model: Annotated[str | None, typer.Argument(help="Model whose hook points are listed.")] = None,
) -> None:
    """List the built-in models, or the hook points of a model."""
    if model is not None:
        from dictlearn.lm.loading import load_model

        _show_hooks(load_model(model, check=False))
        return
    table = Table("model", "description", box=None, pad_edge=False)
    for name, description in BUILTIN_MODELS.items():
        table.add_row(*map(escape, (name, description)))
    console.print(table)
    console.print(
        "\nAlso any Hugging Face id or local folder that TransformerLens' TransformerBridge loads."
        "\nTo list the hook points of a model: dictlearn models NAME"
    )


def _show_hooks(model: "LanguageModel") -> None:
    """Print the hook points of a model, those of its blocks together."""
    from dictlearn.lm.hook_rows import hook_rows

    rows = hook_rows(model)
    table = Table("hook", "width", "blocks (N)", "other names", box=None, pad_edge=False)
    for row in rows:
        if row.width is not None:
            blocks = f"{row.blocks[0]} to {row.blocks[-1]}" if row.blocks else ""
            table.add_row(row.names[0], str(row.width), blocks, ", ".join(row.names[1:]))
    console.print(table, highlight=False, markup=False)
    others = ", ".join(row.names[0] for row in rows if row.width is None)
    console.print(
        f"\nWithout a vector for every token, or switched off: {others}",
        highlight=False,
        markup=False,
    )


def kinds(
    kind: Annotated[
        str | None, typer.Argument(help="Kind whose hyperparameters are listed.")
    ] = None,
) -> None:
    """List the kinds of dictionary, or the settings of one kind and of its training."""
    if kind is None:
        table = Table("kind", "description", box=None, pad_edge=False)
        for name, description in _registered():
            table.add_row(*map(escape, (name, description)))
        console.print(table)
        return
    from dictlearn.dictionaries.registry import config_class
    from dictlearn.training.config import FitConfig

    console.print(_fields(config_class(kind)))
    console.print("\nSettings of training, for every kind:\n", _fields(FitConfig))


def _registered() -> Iterator[tuple[str, str]]:
    """The registered kinds, each with a line about it.

    They are read from the source, since their import is that of torch, which takes two seconds.
    """
    source = files("dictlearn.dictionaries")
    registry = ast.parse((source / "registry.py").read_text("utf-8"))
    homes: dict[str, str] = {}
    for node in registry.body:
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                homes |= {imported.name: module.rpartition(".")[2] for imported in names}
            case ast.AnnAssign(target=ast.Name(id="KINDS"), value=ast.Tuple(elts=listed)):
                for entry in listed:
                    assert isinstance(entry, ast.Name)
                    home = ast.parse((source / f"{homes[entry.id]}.py").read_text("utf-8"))
                    yield _kind_of(home, entry.id)


def _kind_of(module: ast.Module, config: str) -> tuple[str, str]:
    """The kind of a config class in the source of its module, and a line about it."""
    (body,) = (n for n in module.body if isinstance(n, ast.ClassDef) and n.name == config)
    (kind,) = (
        statement.value.value
        for statement in body.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and [t.id for t in statement.targets if isinstance(t, ast.Name)] == ["kind"]
    )
    return str(kind), (ast.get_docstring(body) or "").splitlines()[0]


def _fields(config: type[Config]) -> Table:
    """The settings of a config as options."""
    hints, told = get_type_hints(config), _meanings(config)
    table = Table("option", "type", "default", "meaning", box=None, pad_edge=False)
    for field in dataclasses.fields(config):
        if field.repr:  # weights are no setting
            required = field.default is dataclasses.MISSING
            default = "required" if required else _as_option(field.default)
            option = "--" + field.name.replace("_", "-")
            kind = in_words(hints[field.name])
            table.add_row(*map(escape, (option, kind, default, told.get(field.name, ""))))
    return table


def _as_option(value: object) -> str:
    """A value as it is given on the command line: the items of a list with commas between."""
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "[]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _meanings(cls: type[Config]) -> dict[str, str]:
    """The first sentence of the docstring of each field, where it has one."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__annotations__" not in vars(base) or base.__module__ == "builtins":
            continue
        try:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # made where there is no file, in a notebook for instance
            continue
        assert isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(words))),
                ):
                    found[name] = re.split(r"(?<=\.)\s", " ".join(words.split()), maxsplit=1)[0]
    return found
