"""Commands that list what there is."""

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from dictlearn.cli.terminal import console


def models(
    model: Annotated[str | None, typer.Argument(help="List the hook points of this model.")] = None,
) -> None:
    """List the built-in models, or the names of one model's hook points."""
    from dictlearn.lm.hooks import hook_names
    from dictlearn.lm.loading import BUILTIN_MODELS, load_model

    if model is not None:
        for hook in hook_names(load_model(model)):
            console.print(hook, highlight=False)
        return
    table = Table("model", "what it is", box=None, pad_edge=False)
    for name, description in BUILTIN_MODELS.items():
        table.add_row(name, description)
    console.print(table)
    console.print(
        "\nAny Hugging Face id or local folder that TransformerLens' TransformerBridge loads works "
        "too.\nHook points of a model: dictlearn models NAME"
    )


def kinds(
    kind: Annotated[str | None, typer.Argument(help="Show the fields of this kind.")] = None,
) -> None:
    """List the kinds of dictionary, or the fields of one kind."""
    from dictlearn.dictionaries.registry import KINDS, config_class

    if kind is None:
        table = Table("kind", "what it is", box=None, pad_edge=False)
        for config in KINDS:
            table.add_row(config.kind, (config.__doc__ or "").splitlines()[0])
    else:
        table = Table("field", "type", "default", box=None, pad_edge=False)
        for field in dataclasses.fields(config_class(kind)):
            required = field.default is dataclasses.MISSING
            kind_name = getattr(field.type, "__name__", str(field.type))
            table.add_row(field.name, kind_name, "required" if required else repr(field.default))
    console.print(table)
