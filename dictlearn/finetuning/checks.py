"""Checks of the arguments of `finetune`, before anything is trained."""

from collections.abc import Iterable, Mapping

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, nearest
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.codebook import Codebook
from dictlearn.dictionaries.files import CONFIG_FILE, WEIGHTS_FILE
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.finetuning.finetuned import DICTIONARIES, MODEL, MODEL_FILES
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import weight_processing
from dictlearn.lm.in_place import require_order, shared_target
from dictlearn.training.checkpoints import CHECKPOINT_FILE


def require_by_name(dictionaries: object, sites: object) -> None:
    """Raise an `InputError` unless `sites` are those of configs among `dictionaries`, by name."""
    if not isinstance(dictionaries, Mapping):
        raise InputError(
            "required a dict of configs or dictionaries by name, such as "
            f"{{'blocks.0.hook_mlp_out': TopKSAEConfig(…)}}, got {dictionaries!r:.80}"
        )
    for name in dictionaries:
        if not is_file_name(name) or name.startswith("."):
            raise InputError(
                "a dictionary's name becomes a folder: required a name without '/', '\\' or a "
                f"leading dot, got {name!r}"
            )
    if not isinstance(sites, Mapping):
        raise InputError(f"required sites as a dict of Sites by name, got {sites!r:.80}")
    for name, at in sites.items():
        if name not in dictionaries:
            raise InputError(
                f"sites has {name!r}, which no dictionary is called; {nearest(name, dictionaries)}"
            )
        if not isinstance(dictionaries[name], GradientConfig):
            raise InputError(
                f"sites has {name!r}, which is a ready dictionary and stays at its own sites: "
                "required a config there, or no entry in sites"
            )
        if not isinstance(at, Sites):
            raise InputError(
                f"required Sites for {name!r}, as hook_sites(model, hook) or mlp_sites(model, "
                f"layer) returns, got {at!r:.80}"
            )


def require_effect(dictionaries: Mapping[str, FeatureDictionary], config: FinetuneConfig) -> None:
    """Raise a `ConfigError` if nothing would learn, or `k_start` is not what codes fall from."""
    if not dictionaries and config.model_learning_rate is None:
        raise ConfigError(
            "nothing would learn: required dictionaries, or FinetuneConfig.model_learning_rate to "
            "train the model alone, got neither"
        )
    if config.k_start is None:
        return
    codebooks = {name: d for name, d in dictionaries.items() if isinstance(d, Codebook)}
    if not codebooks:
        raise ConfigError(
            "FinetuneConfig.k_start is the number of codes that codebooks choose at the start: "
            f"required a codebook to train, got k_start={config.k_start} without one; leave it out"
        )
    for name, codebook in codebooks.items():
        if not codebook.k <= config.k_start <= codebook.n_codes:
            raise ConfigError(
                f"FinetuneConfig.k_start must be at least the k and at most the number of codes of "
                f"{name!r} ({codebook.k} and {codebook.n_codes}), since the codes chosen fall from "
                f"k_start to k, got {config.k_start}"
            )


def require_fit(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    origin: Provenance,
    *,
    allow_other_model: bool,
) -> None:
    """Check that all dictionaries can run in `model`, which has the provenance `origin`, at once.

    Raises:
        InputError: a hook does not exist or has another width, an estimate depends on what comes
            later in a pass, or two dictionaries replace one target.
        ProvenanceError: a dictionary was trained on another model, and that is not allowed.
    """
    require_order(model, dictionaries)
    if shared := shared_target(model, dictionaries):
        hook, one, other = shared
        raise InputError(f"{one!r} and {other!r} both replace {hook!r}: required one of them")
    for name, dictionary in dictionaries.items():
        if not allow_other_model:
            dictionary.provenance.require_same_model(origin, name)


def require_room(
    own: OwnFiles, model: LanguageModel, names: Iterable[str], *, trained: bool, overwrite: bool
) -> None:
    """Check that the result of a run can be written to `own`: dictionaries and a trained model.

    Raises:
        InputError: there is a result already, or files of others are in the way; or the model
            cannot be saved.
    """
    if trained and (processing := weight_processing(model)) != "none":
        raise InputError(
            "required a TransformerBridge with the weights that it was loaded with, since out= has "
            f"the trained model saved, got {type(model).__name__} (processing of weights: "
            f"{processing or 'unknown'}); load the model with load_model, or leave out= out"
        )
    finished = any(
        found.lists(CONFIG_FILE) and (found.path / CONFIG_FILE).exists()
        for found in (own, *own.folders())
    )
    if finished and not overwrite and not (own.path / CHECKPOINT_FILE).exists():
        raise InputError(
            f"a trained result is already in {own.path}: choose another folder (to go "
            "on with it, pass the model and the dictionaries of Finetuned.load to finetune), or "
            "overwrite that run (overwrite=True)"
        )
    own.require(CONFIG_FILE)
    for name in names:
        _inside(own, DICTIONARIES, name).require(CONFIG_FILE, WEIGHTS_FILE)
    if trained:
        _inside(own, MODEL).require(*MODEL_FILES)


def _inside(own: OwnFiles, *names: str) -> OwnFiles:
    """A folder inside, which need not exist yet."""
    for name in names:
        own = own.inside(name)
        if own.path.exists() and not own.path.is_dir():
            raise InputError(
                f"required a folder at {own.path}, or nothing, got a file; move it away, or choose "
                "another out="
            )
    return own
