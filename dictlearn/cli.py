"""The command line: parses, calls, prints."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dictlearn.core.config import DictionaryConfig
from dictlearn.core.errors import ConfigError, DictLearnError, InputError
from dictlearn.core.files import writable_folder
from dictlearn.core.records import Records
from dictlearn.core.sites import Sites

app = typer.Typer(
    name="dictlearn",
    help="Train, evaluate and compare feature dictionaries (codebooks, sparse autoencoders, "
    "transcoders) on the activations of a language model.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()
if not console.is_terminal:  # a log or a pipe has no width: leave tables whole
    console = Console(width=max(console.width, 130))
console.quiet = os.environ.get("RANK", "0") != "0"  # torchrun: the first process speaks for all

ModelName = Annotated[
    str, typer.Option("--model", help="builtin:stories, a Hugging Face id, or such a folder.")
]
TextSource = Annotated[
    str,
    typer.Option(
        "--text",
        help="builtin:stories, a .txt/.jsonl/.parquet file (or a folder of them), or hf:DATASET.",
    ),
]
WholeDocuments = Annotated[
    bool, typer.Option(help="Never open a block in the middle of a document; fill blocks up.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace what is there.")]


def main() -> None:
    """Run the command line; an error of ours ends it with a message and exit status 2."""
    try:
        app()
    except DictLearnError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_escaped(error)}", highlight=False)
        sys.exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path(
        "runs/demo"
    ),
    layer: Annotated[int, typer.Option(help="Which MLP of the built-in model.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the stream and of every dictionary.")] = 0,
) -> None:
    """Train four families and their baselines on one MLP of the built-in model (minutes)."""
    from dictlearn.comparison.report import REPORT_FILE
    from dictlearn.demo import run_demo

    _show(run_demo(out, layer=layer, seed=seed))
    console.print(f"results: {out / 'results.json'}\nreport:  {out / REPORT_FILE}", highlight=False)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Every other option is a field of the kind: dictlearn kinds KIND lists them.",
)
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
    from dictlearn.dictionaries.registry import config_class
    from dictlearn.recipes import read_recipe
    from dictlearn.training.config import FitConfig
    from dictlearn.training.fit import fit
    from dictlearn.training.launch import launch

    if (recipe is None) == (kind is None):
        raise InputError("train needs either --kind with its fields, or --recipe FILE")
    fields = _fields(context.args)
    configs: dict[str, DictionaryConfig]
    if recipe is not None:
        given = [*fields, *(name for name in _RUN if _was_given(context, name))]
        if given:
            raise ConfigError(f"--recipe says it all, so leave out {', '.join(given)}")
        configs, fit_config = read_recipe(recipe)
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


@app.command()
def evaluate(
    dictionaries: Annotated[
        list[Path], typer.Argument(help="Folders of dictionaries, or folders of such folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")],
    model: ModelName = "builtin:stories",
    text: TextSource = "builtin:stories",
    tokens: Annotated[int, typer.Option(help="Tokens to evaluate on.")] = 40_000,
    split: Annotated[str, typer.Option(help="train or held_out.")] = "held_out",
    context: Annotated[int | None, typer.Option(help="Tokens a block; the model's own.")] = None,
    whole_documents: WholeDocuments = False,
    include_special: Annotated[bool, typer.Option(help="Count special tokens too.")] = False,
    bits: Annotated[bool, typer.Option(help="Price coefficients: 4 more passes.")] = False,
) -> None:
    """Measure dictionaries side by side on the same held-out tokens."""
    from dictlearn.comparison.report import REPORT_FILE, write_report
    from dictlearn.dictionaries.files import load_all
    from dictlearn.evaluation.evaluate import evaluate as run
    from dictlearn.lm.loading import load_model
    from dictlearn.text.tokens import load_tokens

    loaded = load_all(dictionaries)
    writable_folder(out)
    subject = load_model(model)
    blocks = load_tokens(
        text, subject, split=split, n_tokens=tokens, context=context,
        whole_documents=whole_documents,
    )  # fmt: skip
    records = run(loaded, subject, blocks, exclude_special=not include_special, bits=bits)
    records.save(out)
    write_report(records, out / REPORT_FILE)
    _show(records)
    console.print(f"results: {out / 'results.json'}\nreport:  {out / REPORT_FILE}", highlight=False)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders with results.json.")],
    out: Annotated[Path | None, typer.Option(help="Write a report of all runs here.")] = None,
) -> None:
    """Put the results of several runs in one table; refuses runs that are not comparable."""
    from dictlearn.comparison.report import write_report
    from dictlearn.comparison.runs import combine, load_run

    names = [path.name if path.suffix != ".json" else path.parent.name for path in runs]
    if len(set(names)) < len(names):
        names = [str(path) for path in runs]
    records = combine({n: load_run(path) for n, path in zip(names, runs, strict=True)})
    _show(records)
    if out is not None:
        console.print(f"report: {write_report(records, out)}", highlight=False)


def _show(records: Records) -> None:
    from dictlearn.comparison.tables import tables

    console.print(*tables(records))


def _sites(model: object, hook: str | None, mlp: int | None) -> Sites:
    from dictlearn.lm.sites import hook_sites, mlp_sites

    if hook is not None and mlp is None:
        return hook_sites(model, hook)
    if mlp is not None and hook is None:
        return mlp_sites(model, mlp)
    raise InputError("harvest needs either --hook NAME or --mlp LAYER")


def _fields(arguments: list[str]) -> dict[str, object]:
    """Leftover `--some-field value` pairs as config fields."""
    from dictlearn.recipes import parse_value

    fields = {}
    queue = list(arguments)
    while queue:
        flag, equals, value = queue.pop(0).partition("=")
        if not flag.startswith("--") or (not equals and not queue):
            raise InputError(f"required --field value, got {flag!r} without one")
        fields[flag[2:].replace("-", "_")] = parse_value(value if equals else queue.pop(0))
    return fields


_RUN = ("steps", "batch_size", "learning_rate", "seed", "device", "shard_features")
"""Options of `train` that a recipe has in its section [fit]."""


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))
