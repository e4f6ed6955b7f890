"""Commands that list models, hook points, kinds and hyperparameters."""

import dataclasses
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dictlearn.cli.terminal import console


def models(
    model: Annotated[str | None, typer.Argument(help="Model whose hook points are listed.")] = None,
) -> None:
    """List the built-in models, or the hook points of a model."""
    from dictlearn.lm.hooks import hook_names
    from dictlearn.lm.loading import BUILTIN_MODELS, load_model

    if model is not None:
        for hook in hook_names(load_model(model, check=False)):
            console.print(hook, highlight=False, markup=False)
        return
    table = Table("model", "description", box=None, pad_edge=False)
    for name, description in BUILTIN_MODELS.items():
        table.add_row(*map(escape, (name, description)))
    console.print(table)
    console.print(
        "\nAlso any Hugging Face id or local folder that TransformerLens' TransformerBridge loads."
        "\nTo list the hook points of a model: dictlearn models NAME"
    )


def kinds(
    kind: Annotated[
        str | None, typer.Argument(help="Kind whose hyperparameters are listed.")
    ] = None,
) -> None:
    """List the kinds of dictionary, or the hyperparameters of one kind."""
    from dictlearn.dictionaries.registry import KINDS, config_class

    if kind is None:
        table = Table("kind", "description", box=None, pad_edge=False)
        for config in KINDS:
            table.add_row(*map(escape, (config.kind, (config.__doc__ or "").splitlines()[0])))
    else:
        table = Table("field", "type", "default", box=None, pad_edge=False)
        for field in dataclasses.fields(config_class(kind)):
            if not field.repr:  # weights, which are no setting
                continue
            required = field.default is dataclasses.MISSING
            kind_name = getattr(field.type, "__name__", str(field.type))
            default = "required" if required else repr(field.default)
            table.add_row(*map(escape, (field.name, kind_name, default)))
    console.print(table)
