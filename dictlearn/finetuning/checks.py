"""Checks of the arguments of `finetune`, before anything is trained."""

from collections.abc import Mapping

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, InputError, nearest
from dictlearn.core.file_lists import is_file_name
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.codebook import Codebook
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.in_place import require_order, shared_target


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
