"""Commands from text to dictionaries."""

from pathlib import Path
from typing import Annotated

import typer

from dictlearn.cli.terminal import (
    ModelName,
    Overwrite,
    TextSource,
    WholeDocuments,
    console,
    leftover_fields,
)
from dictlearn.core.errors import ConfigError, InputError
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.sites import Sites


def harvest(
    out: Annotated[Path, typer.Option(help="Folder for the activations.")],
    model: ModelName = "builtin:stories",
    text: TextSource = "builtin:stories",
    hook: Annotated[str | None, typer.Option(help="Read and write this hook point.")] = None,
    mlp: Annotated[int | None, typer.Option(help="Read and write the MLP of this layer.")] = None,
    tokens: Annotated[int, typer.Option(help="Training tokens to run.")] = 500_000,
    split: Annotated[str, typer.Option(help="train or held_out.")] = "train",
    context: Annotated[int | None, typer.Option(help="Tokens a block; the model's own.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    whole_documents: WholeDocuments = False,
    include_special: Annotated[bool, typer.Option(help="Keep rows of special tokens.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Run text through a model and keep the activations at a hook point or an MLP."""
    from dictlearn.harvesting import harvest as run
    from dictlearn.lm.loading import load_model
    from dictlearn.text.tokens import load_tokens

    loaded = load_model(model)
    sites = _sites(loaded, hook, mlp)
    blocks = load_tokens(
        text, loaded, split=split, n_tokens=tokens, context=context,
        whole_documents=whole_documents,
    )  # fmt: skip
    store = run(
        loaded, blocks, sites, out, dtype=dtype, exclude_special=not include_special,
        overwrite=overwrite,
    )  # fmt: skip
    console.print(f"{store.n_rows:,} rows at {sites} in {out}", highlight=False)


def train(
    context: typer.Context,
    activations: Annotated[Path, typer.Argument(help="Folder that harvest wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for dictionaries, log and checkpoint.")],
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file: [fit] and one [dictionaries.NAME] each.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Train one dictionary of this kind.")] = None,
    steps: Annotated[int, typer.Option(help="Batches.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Rows in a batch.")] = 4096,
    learning_rate: Annotated[float | None, typer.Option(help="The kind's own unless set.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the stream and of the dictionary.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    nproc: Annotated[int, typer.Option(help="Processes here that divide each batch.")] = 1,
    shard_features: Annotated[bool, typer.Option(help="Divide features instead.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train one dictionary (--kind sae --n-features 4096) or many (--recipe runs.toml).

    A killed run continues where its last checkpoint was when the same command is given again.
    """
    from dictlearn.activations.store import ActivationStore
    from dictlearn.config_files import read_config_file
    from dictlearn.dictionaries.registry import config_class
    from dictlearn.distributed.launching import launch
    from dictlearn.training.config import FitConfig
    from dictlearn.training.fit import fit

    if (recipe is None) == (kind is None):
        raise InputError("train needs either --kind with its fields, or --recipe FILE")
    fields = leftover_fields(context.args)
    configs: dict[str, DictionaryConfig]
    if recipe is not None:
        given = [*fields, *(name for name in _RUN if _was_given(context, name))]
        if given:
            raise ConfigError(f"--recipe says it all, so leave out {', '.join(given)}")
        configs, fit_config = read_config_file(recipe)
    else:
        assert kind is not None
        configs = {kind: config_class(kind).from_dict(fields)}
        fit_config = FitConfig(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
            device=device, shard_features=shard_features,
        )  # fmt: skip
    store = ActivationStore.open(activations)
    launch(nproc, fit, configs, store, fit_config, out=out, overwrite=overwrite)
    for name in configs:
        console.print(f"{name}: {out / name}", highlight=False)


def _sites(model: object, hook: str | None, mlp: int | None) -> Sites:
    from dictlearn.lm.sites import hook_sites, mlp_sites

    if hook is not None and mlp is None:
        return hook_sites(model, hook)
    if mlp is not None and hook is None:
        return mlp_sites(model, mlp)
    raise InputError("harvest needs either --hook NAME or --mlp LAYER")


_RUN = ("steps", "batch_size", "learning_rate", "seed", "device", "shard_features")
"""Options of `train` that a recipe has in its section [fit]."""


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
