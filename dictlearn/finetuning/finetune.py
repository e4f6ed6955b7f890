"""Training inside a model: dictionaries in their places, alone or with the model."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.core.batches import Rows
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, NonFiniteError
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.learning import TrainableDictionary
from dictlearn.core.sites import Sites
from dictlearn.core.tokens import Tokens
from dictlearn.distributed.launching import join, own_device
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.finetuning.blocks import Blocks, Sampler
from dictlearn.finetuning.checks import require_by_name, require_effect, require_fit, require_room
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetuned import Finetuned, with_origin
from dictlearn.finetuning.learner import FinetuneLearner
from dictlearn.finetuning.place import LearningPlace
from dictlearn.finetuning.run import LEARNER, FinetuneRun
from dictlearn.lm.attention import fusable_attention
from dictlearn.lm.forward import reading
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.in_place import InPlace, functions_of
from dictlearn.lm.patching import patched
from dictlearn.lm.sites import hook_sites, require_deterministic
from dictlearn.training.initial import weights_hash
from dictlearn.training.loop import carried_out
from dictlearn.training.run import Outcome
from dictlearn.training.standardize import Standardization, fit_all_units
from dictlearn.training.upkeep import Upkeep

Given = GradientConfig | FeatureDictionary


def finetune(
    model: LanguageModel,
    dictionaries: Mapping[str, Given],
    tokens: Tokens | Sampler,
    config: FinetuneConfig | None = None,
    *,
    sites: Mapping[str, Sites] | None = None,
    allow_other_model: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Finetuned:
    """Dictionaries trained in their places in `model`, and with a rate for it the model as well.

    Every pass runs through all dictionaries, which replace their targets at every token, special
    ones included. The loss is that of the language model (the next token, or the KL divergence from
    the clean model), plus `local_weight` times each dictionary's own objective, whose gradient
    reaches that dictionary only. So codebooks are finetuned with the model around them (Tamkin et
    al. 2024, section 2), SAEs and transcoders are trained end to end (Braun et al. 2024), and, with
    no dictionaries, a language model is trained.

    With `out`, that folder receives the log, a checkpoint that a later call with the same arguments
    continues to the same bits, and at the end the dictionaries and, if it was trained, the model:
    `Finetuned.load` reads it. In several processes, each takes its part of every batch.

    The model is trained in place. A run that ended early has changed it already, so load the model
    again before you continue that run; after a `NonFiniteError` it may be full of NaN.

    Args:
        model: a model with TransformerLens hooks; it is trained in place, without dropout. With
            `out`, one that `save_model` accepts if it is trained.
        dictionaries: by name a config, for a new dictionary, or a dictionary to go on with, of
            which a copy is trained.
        tokens: blocks of text, in shuffled epochs, or an object whose `sample(n, seed)` gives `n`
            fresh blocks, ids (torch.long) of shape [n, position]. A block has 2 tokens or more.
        config: the settings.
        sites: the sites of new dictionaries, by name; one that is missing stands at the hook that
            its name is.
        allow_other_model: whether dictionaries that were trained on another model are trained on.
        out: a folder.
        overwrite: whether the files of an earlier run there are removed.
        progress: whether a bar is shown.

    Raises:
        InputError, ConfigError: something in the arguments cannot work, or there are files in `out`
            that are not to be overwritten; nothing has started. Later only if `sample` gives other
            blocks than it should.
        ProvenanceError: a dictionary was trained on another model, and `allow_other_model` is off.
        StorageError: `out` cannot be written or is too small.
        NonFiniteError: the loss became NaN or infinite; the last checkpoint stays.
    """
    config = FinetuneConfig() if config is None else config
    if not isinstance(config, FinetuneConfig):
        raise ConfigError(f"required FinetuneConfig(steps=…, …), got {config!r:.80}")
    group = join()
    run, learner = group.all_succeed(
        lambda: _set_up(
            model, dictionaries, tokens, config, {} if sites is None else sites, out, group,
            allow_other_model=allow_other_model, overwrite=overwrite,
        )
    )  # fmt: skip

    def finish(outcome: Outcome) -> Finetuned:
        found = learner.finish()
        rows = config.steps * run.blocks.ids(0).numel()
        with_origin(model, found, tokens, config, rows, outcome.final.get(LEARNER, {}))
        result = Finetuned(model, found, dict(run.description), learner.trains_model)
        group.all_succeed(lambda: run.write(result))
        return result

    with _advising(learner), _learning(model, learner):
        return carried_out(run, finish, overwrite=overwrite, show=progress)


def _set_up(
    model: LanguageModel,
    given: Mapping[str, Given],
    tokens: Tokens | Sampler,
    config: FinetuneConfig,
    sites: Mapping[str, Sites],
    out: str | Path | None,
    group: ProcessGroup,
    *,
    allow_other_model: bool,
    overwrite: bool,
) -> tuple[FinetuneRun, FinetuneLearner]:
    """Everything that is made and checked before the first step."""
    if config.batch_size % group.world_size:
        raise ConfigError(
            f"FinetuneConfig.batch_size, the blocks of all processes together, must be divisible "
            f"by their number ({group.world_size}), got {config.batch_size}"
        )
    require_by_name(given, sites)
    blocks = Blocks(tokens, model, config.batch_size, config.seed)
    require_deterministic(model)
    device = next(iter(model.parameters())).device
    placed = replace(config, device=own_device(str(device), group))
    made = {name: _made(model, name, one, sites.get(name), placed) for name, one in given.items()}
    require_effect(made, config)
    origin = model_provenance(model)
    require_fit(model, made, origin, allow_other_model=allow_other_model)
    fresh = {name: d for name, d in made.items() if isinstance(given[name], GradientConfig)}
    described = {name: _described(d, fresh=name in fresh) for name, d in made.items()}
    if config.from_data and fresh:
        _initialize_(model, fresh, blocks.first(config.standardize_rows), placed)
    learner = FinetuneLearner(model, _places(made, placed, group), placed, group)
    settings = config.to_dict()
    del settings["device"]
    run = FinetuneRun(
        config=placed,
        group=group,
        learners={LEARNER: learner},
        description={
            "finetune_config": settings,
            "dictionaries": described,
            "blocks": blocks.describe(),
            "model": origin.model_hash,
        },
        folder=None if out is None else Path(out),
        blocks=blocks,
    )
    if run.written:
        require_room(run.written, model, made, trained=learner.trains_model, overwrite=overwrite)
    return run, learner


def _made(
    model: LanguageModel, name: str, given: Given, sites: Sites | None, config: FinetuneConfig
) -> TrainableDictionary:
    """The dictionary to train: a new one from its config, or a copy of the one given."""
    if isinstance(given, GradientConfig):
        at = hook_sites(model, name) if sites is None else sites
        dictionary = given.build(given.sites(at), seed=config.seed)
        if config.dtype == "float64":  # kinds are made in float32
            dictionary.double()
    elif isinstance(given, TrainableDictionary) and isinstance(given.config, GradientConfig):
        dictionary = deepcopy(given)
    else:
        raise InputError(
            f"required a config of a kind that learns by gradients, or such a dictionary, for "
            f"{name!r}, got {given!r:.80}"
        )
    assert isinstance(dictionary, TrainableDictionary)
    return dictionary.to(config.torch_device).train().requires_grad_(True)


def _places(
    made: Mapping[str, TrainableDictionary], config: FinetuneConfig, group: ProcessGroup
) -> dict[str, LearningPlace]:
    places = {}
    for name, dictionary in made.items():
        assert isinstance(dictionary.config, GradientConfig)
        dictionary.project_()
        upkeep = Upkeep(dictionary, dictionary.config, config, group)
        places[name] = LearningPlace(upkeep, config)
    return places


def _initialize_(
    model: LanguageModel,
    dictionaries: Mapping[str, TrainableDictionary],
    ids: Int[Tensor, "b pos"],
    config: FinetuneConfig,
) -> None:
    """Standardize and initialize new dictionaries from activations of the clean model."""
    hooks = list(dict.fromkeys(hook for d in dictionaries.values() for hook in d.sites.hooks))
    with reading(model, hooks) as read:
        found = [read(part) for part in ids.split(config.batch_size)]
    rows = Rows({hook: torch.cat([at[hook].flatten(0, 1) for at in found]) for hook in hooks})
    at = [d.sites for d in dictionaries.values()]
    units = fit_all_units(at, [rows], config.torch_dtype)
    for dictionary in dictionaries.values():
        Standardization.at(dictionary.sites, units).apply_(dictionary)
        dictionary.initialize_(*dictionary.standardized(rows.batch(dictionary.sites)))


def _described(dictionary: TrainableDictionary, *, fresh: bool) -> dict[str, Any]:
    """A dictionary before training as JSON, of which a checkpoint requires the same."""
    assert dictionary.config is not None
    return {
        "kind": dictionary.kind,
        "sites": dictionary.sites.to_dict(),
        "config": dictionary.config.to_dict(),
        "start": "config" if fresh else weights_hash(dictionary),
    }


@contextmanager
def _advising(learner: FinetuneLearner) -> Iterator[None]:
    """A block that ends early with the advice to load a model again that was trained within."""
    advice = (
        "a run trains its model in place: load the model again before you continue or begin another"
    )
    try:
        yield
    except (InputError, NonFiniteError) as error:
        if not learner.trains_model:
            raise
        raise type(error)(f"{error}; {advice}") from error
    except KeyboardInterrupt as error:
        if learner.trains_model:
            error.add_note(advice)
        raise


@contextmanager
def _learning(model: LanguageModel, learner: FinetuneLearner) -> Iterator[None]:
    """A context in which passes of `model` run through the dictionaries that learn.

    The model's parameters have gradients within if they are trained. Attention is fused where it
    may be.
    """
    needed = [parameter.requires_grad for parameter in model.parameters()]
    placed = [InPlace(p.dictionary.sites, p.replace) for p in learner.places.values()]
    with ExitStack() as stack:
        stack.enter_context(fusable_attention(model).running())
        stack.enter_context(patched(model, functions_of(placed, model)))
        model.requires_grad_(learner.trains_model)
        try:
            yield
        finally:
            for parameter, needs in zip(model.parameters(), needed, strict=True):
                parameter.requires_grad_(needs)
