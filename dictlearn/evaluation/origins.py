"""Checks that every evaluation begins with: dictionaries by name, all of the model."""

from collections.abc import Mapping

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.named import Dictionaries, by_name
from dictlearn.core.provenance import Provenance
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.sites import require_sites


def required_dictionaries(
    caller: str, dictionaries: Dictionaries, at_least: int = 1
) -> Mapping[str, FeatureDictionary]:
    """The dictionaries that `caller` was given, by name.

    Raises:
        InputError: there are fewer than `at_least`, or something else was given.
    """
    found = by_name(dictionaries)
    if not isinstance(found, Mapping) or len(found) < at_least:
        required = "a dictionary, or several" if at_least == 1 else "two or more dictionaries"
        raise InputError(f"{caller} needs {required} in a dict by name, got {dictionaries!r:.80}")
    for name, dictionary in found.items():
        if not isinstance(dictionary, FeatureDictionary):
            raise InputError(
                f"{name!r}: required a FeatureDictionary, got {type(dictionary).__name__}"
            )
    return found


def require_fitting(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel,
    *,
    allow_other_model: bool = False,
) -> tuple[Provenance, dict[str, dict[str, str]]]:
    """The provenance of `model`, and a setting that names dictionaries of other models.

    The setting, for the description in records, is empty unless `allow_other_model` let such
    dictionaries pass.

    Raises:
        InputError: the model lacks a hook, or has another width there.
        ProvenanceError: a dictionary was trained on another model, and that is not allowed.
    """
    require_sites(model, {f"dictionary {name!r}": d.sites for name, d in dictionaries.items()})
    origin = model_provenance(model)
    others: dict[str, str] = {}
    for name, dictionary in dictionaries.items():
        trained_on = dictionary.provenance
        if allow_other_model and not trained_on.is_same_model(origin):
            others[name] = trained_on.model_in_words()
        else:
            trained_on.require_same_model(origin, name)
    return origin, {"other_models": others} if others else {}
