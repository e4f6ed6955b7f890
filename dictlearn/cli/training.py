"""Commands that harvest activations and train dictionaries."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dictlearn.cli import options
from dictlearn.cli.folders import show_dictionaries
from dictlearn.cli.terminal import given_fields, numbers, say
from dictlearn.core.errors import InputError, nearest

if TYPE_CHECKING:
    from dictlearn.config_files import ConfigFile
    from dictlearn.core.dictionary import FeatureDictionary
    from dictlearn.core.kinds import DictionaryConfig
    from dictlearn.core.sites import Sites
    from dictlearn.training.config import FitConfig

_TOKENS = options.TokenCount(500_000, at_most=True)


def harvest(
    out: Annotated[Path, typer.Option(help="Output folder for the activations.")],
    model: options.ModelName = "builtin:stories",
    check_model: options.CheckModel = True,
    device: options.Device = None,
    model_dtype: options.ModelDtype = "float32",
    text: options.TextSource = "builtin:stories",
    column: options.Column = "text",
    ids_column: options.IdsColumn = None,
    dataset_split: options.DatasetSplit = None,
    control_tokens: options.ControlTokens = False,
    separator: options.Separator = None,
    hook: Annotated[
        list[str] | None, typer.Option(help="Hook point to read; may be repeated.")
    ] = None,
    mlp: Annotated[
        list[int] | None, typer.Option(help="Layer of an MLP to read; may be repeated.")
    ] = None,
    tokens: Annotated[options.TokenCount, options.token_count("Number of tokens.")] = _TOKENS,
    split: options.Split = "train",
    context: options.Context = None,
    dtype: Annotated[str, typer.Option(help="Storage type: float32 or bfloat16.")] = "float32",
    whole_documents: options.WholeDocuments = False,
    include_special: options.IncludeSpecial = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Run text through a model and store the activations at hook points or MLPs.

    Several are read in one pass: --mlp 0 --mlp 1.
    """
    import dictlearn.harvesting as harvesting
    from dictlearn.activations.store import require_no_store
    from dictlearn.cli.reading import reading
    from dictlearn.cli.subject import loaded

    if not hook and not mlp:
        raise InputError("harvest needs --hook NAME or --mlp LAYER, or several of them")
    require_no_store(out, overwrite=overwrite)  # this and the next before the model is loaded
    harvesting.require_dtype(dtype)
    read = reading(
        text, split, tokens, context=context, whole_documents=whole_documents, column=column,
        ids_column=ids_column, dataset_split=dataset_split, control_tokens=control_tokens,
        separator=separator,
    )  # fmt: skip
    subject = loaded(model, check=check_model, device=device, dtype=model_dtype)
    sites = _sites(subject, hook or (), mlp or ())
    store = harvesting.harvest(
        subject, read(subject), sites, out, dtype=dtype, exclude_special=not include_special,
        overwrite=overwrite,
    )  # fmt: skip
    say(f"{store.n_rows:,} rows at {', '.join(map(str, sites))} in {out}")


def train(
    context: typer.Context,
    activations: Annotated[Path, typer.Argument(help="Folder written by `dictlearn harvest`.")],
    out: Annotated[Path, typer.Option(help="Output folder for dictionaries, log and checkpoint.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "--recipe",
            help="TOML file with a section [fit] and a section [dictionaries.NAME] per dictionary; "
            "options given beside it come before what it says.",
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Kind; `dictlearn kinds` lists all.")] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            help="Sites to train at, of several harvested: a target hook, or "
            "'SOURCE -> TARGET'. Repeat it, or give 'all', for a dictionary at each."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Number of training steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Tokens per batch.")] = 4096,
    learning_rate: Annotated[
        float | None, options.number_or_none("By default the kind's own.")
    ] = None,
    max_norm_ratio: Annotated[
        float | None,
        options.number_or_none("Leave out rows with norms over this many times the median."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Dictionary to start from; its kind and fields are the default."),
    ] = None,
    seed: Annotated[
        str,
        typer.Option(
            help="Random seed of the data order and of the dictionaries, or several, as "
            "in 0,1,2, each in a folder of its own."
        ),
    ] = "0",
    device: options.Device = None,
    nproc: Annotated[int, typer.Option(help="Processes that each batch is split over.")] = 1,
    shard_features: Annotated[bool, typer.Option(help="Split features instead.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Train one dictionary (--kind sae --n-features 4096) or several (--config runs.toml).

    One dictionary is written to the output folder itself, several to a folder of its name each.
    Several values of a setting of the kind are a sweep in one pass over the data: --k 8,16,32
    trains KIND_k8, KIND_k16 and KIND_k32, and those of two settings are crossed. Beside --config,
    --k 8 is set for every dictionary that has a k, --NAME.k 8 for that one. To continue an
    interrupted run from its last checkpoint, repeat the command.
    """  # fmt: skip
    from dictlearn.activations.store import ActivationStore
    from dictlearn.dictionaries.files import CONFIG_FILE
    from dictlearn.distributed.launching import launch
    from dictlearn.formats import load
    from dictlearn.progress import in_words
    from dictlearn.training.config import FitConfig
    from dictlearn.training.fit import fit
    from dictlearn.training.progress import LOG_FILE

    fields = given_fields(context)
    if (kind is not None or init is not None) and config is not None:
        raise InputError(_EITHER)
    start = None if init is None else load(init)  # a path, or "saelens:PATH" and the like
    if config is None:
        seeds = numbers(seed, "--seed")
        kind = kind or (None if start is None else start.kind)
        settings, own = _of_training(fields, kind)
        fit_config = FitConfig(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seeds[0],
            device=device, shard_features=shard_features, max_norm_ratio=max_norm_ratio, **settings,
        )  # fmt: skip
        given = _of_one_kind(kind, at or [], own, start, fit_config)
    else:
        given = _from_file(config, context, fields)
        seeds = numbers(seed, "--seed") if _was_given(context, "seed") else [given.fit.seed]
    store = ActivationStore.open(activations)
    configs, sites = _placed(given, store.sites)
    folders = {s: out / f"seed{s}" if len(seeds) > 1 else out for s in seeds}
    name = next(iter(configs)) if config is None and len(configs) == 1 else None
    began = time.monotonic()
    for own_seed, folder in folders.items():
        launch(
            nproc, fit, configs if name is None else configs[name], store,
            replace(given.fit, seed=own_seed),
            sites=sites if name is None else sites.get(name),
            init=start if start is None or name is not None else dict.fromkeys(configs, start),
            out=folder, overwrite=overwrite,
        )  # fmt: skip
    took, names = in_words(time.monotonic() - began), configs if name is None else [""]
    written = [folder / one for folder in folders.values() for one in names]
    show_dictionaries([path for path in written if (path / CONFIG_FILE).exists()])
    say(f"time: {took}")
    say(f"log:  {', '.join(str(folder / LOG_FILE) for folder in folders.values())}")


_EITHER = "train needs either --kind, or --init, with fields of the kind, or --config FILE"


def _of_one_kind(
    kind: str | None,
    at: list[str],
    fields: dict[str, Any],
    start: "FeatureDictionary | None",
    fit_config: "FitConfig",
) -> "ConfigFile":
    """The content of a config file with one dictionary, whose kind and fields are those of `start`
    where they are not given."""
    from dictlearn.config_files import ConfigFile, swept
    from dictlearn.dictionaries.registry import config_class

    if start is not None:
        fields = ({} if start.config is None else start.config.to_dict()) | fields
    if kind is None:
        raise InputError(_EITHER)
    configs = swept(config_class(kind), fields)
    return ConfigFile(configs, dict.fromkeys(configs, at), fit_config)


def _of_training(fields: dict[str, Any], kind: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of training that have no option of their own, and those of the kind."""
    from dictlearn.dictionaries.registry import config_class
    from dictlearn.training.config import FitConfig

    own = [field.name for field in dataclasses.fields(FitConfig)]
    kinds = [f.name for f in dataclasses.fields(config_class(kind)) if f.repr] if kind else fields
    for name in fields:
        if name not in own and name not in kinds:
            others = ("config", "kind", "at", "init", "out", "nproc", "overwrite")
            known = [f"--{one.replace('_', '-')}" for one in (*kinds, *own, *others)]
            raise InputError(
                f"train has no option --{name.replace('_', '-')} for the kind {kind}; "
                f"{nearest('--' + name.replace('_', '-'), known)} (dictlearn kinds {kind})"
            )
    return ({k: v for k, v in fields.items() if k in own},
            {k: v for k, v in fields.items() if k not in own})  # fmt: skip


def _from_file(config: Path, context: typer.Context, fields: Mapping[str, Any]) -> "ConfigFile":
    """The content of a config file, with what options say instead."""
    from dictlearn.config_files import read_config_file

    own = {name: context.params[name] for name in _FIT if _was_given(context, name)}
    found = read_config_file(config).overridden({**own, **fields})
    if context.params["at"]:
        found = replace(found, at=dict.fromkeys(found.configs, context.params["at"]))
    return found


def _sites(model: object, hooks: Sequence[str], mlps: Sequence[int]) -> "list[Sites]":
    from dictlearn.lm.mlps import mlp_sites
    from dictlearn.lm.sites import hook_sites

    return [hook_sites(model, h) for h in hooks] + [mlp_sites(model, n) for n in mlps]


def _placed(
    given: "ConfigFile", offered: "Sequence[Sites]"
) -> "tuple[dict[str, DictionaryConfig], dict[str, Sites]]":
    """The config of every dictionary, and the sites of those for which they were chosen."""
    configs: dict[str, DictionaryConfig] = {}
    sites: dict[str, Sites] = {}
    for name, one in given.configs.items():
        chosen = _at(one, offered, name, given.at[name])
        for own in chosen or [name]:
            if own in configs:
                raise InputError(f"two dictionaries would be named {own!r}; rename one of them")
            configs[own] = one
        sites |= chosen
    return configs, sites


def _at(
    config: "DictionaryConfig", offered: "Sequence[Sites]", name: str, places: Sequence[str]
) -> "dict[str, Sites]":
    """The sites at `places`, by names for the dictionaries there.

    A place is a target hook or "SOURCE -> TARGET"; ["all"] stands for all that differ for the kind.
    """
    if list(places) == ["all"]:
        chosen = list(dict.fromkeys(map(config.sites, offered)))
    else:
        chosen = list(dict.fromkeys(_one_at(config, offered, place) for place in places))
    if len(chosen) == 1:
        return {name: chosen[0]}
    targets = [str(sites.target) for sites in chosen]
    return {
        f"{name}-{target}" if targets.count(target) == 1 else f"{name}-{at.source}-{target}": at
        for target, at in zip(targets, chosen, strict=True)
    }


def _one_at(config: "DictionaryConfig", offered: "Sequence[Sites]", place: str) -> "Sites":
    """The sites of a dictionary of this kind at `place`, a target hook or "SOURCE -> TARGET"."""
    named = {f"{sites.source} -> {sites.target}": sites for sites in offered}
    found = {
        config.sites(sites): arrow
        for arrow, sites in named.items()
        if place in (arrow, str(sites.target))
    }
    if not found:
        known = dict.fromkeys((*(str(sites.target) for sites in offered), *named))
        raise InputError(f"nothing was harvested at {place!r}; {nearest(place, known)}")
    if len(found) > 1:
        raise InputError(
            f"several sites with the target {place!r} were harvested, and a {config.kind} differs "
            f"between them: name one as {' or '.join(map(repr, found.values()))}"
        )
    return next(iter(found))


_FIT = ("steps", "batch_size", "learning_rate", "max_norm_ratio", "device", "shard_features")
"""Options of `train` that are fields of `FitConfig`, but for the seed, which may be several."""


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
