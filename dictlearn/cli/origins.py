"""Model, text and context of a command: as given, or else those that its dictionaries have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from rich.console import Console

from dictlearn.core.errors import InputError, ProvenanceError

if TYPE_CHECKING:
    from dictlearn.core.provenance import Provenance

T = TypeVar("T")
BUILTIN = "builtin:stories"
_SETTINGS = ("column", "ids_column", "dataset_split", "control_tokens", "separator",
             "whole_documents")  # fmt: skip
"""Arguments of `load_tokens` that belong to the text; those of later versions are left out."""


@runtime_checkable
class Trained(Protocol):
    """A dictionary, or its description without weights (`dictionaries.files.described`)."""

    @property
    def provenance(self) -> "Provenance":
        """The origin of the activations that it was trained on."""


class Origin(NamedTuple):
    """Model and text that dictionaries are used with, and how the text is read."""

    model: str
    text: str
    settings: dict[str, Any]
    """Further arguments of `load_tokens`, such as `context` and `column`."""
    exclude_special: bool


def origin(
    dictionaries: "Mapping[str, Trained]",
    model: str | None = None,
    text: str | None = None,
    *,
    include_special: bool | None = None,
    **settings: Any,
) -> Origin:
    """Model, text and `settings`: as given, or else those that the dictionaries were trained with.

    Settings that are None are not given. Those of the training belong to its text, and the context
    to its model as well. For dictionaries that do not know their origin, model and text are the
    built-in ones.

    Raises:
        InputError: dictionaries were trained with different ones, and none is given; or the place
            of the model or the text is not known, or is not there any more.
        ProvenanceError: the text has changed since a dictionary was trained on it.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    own: dict[str, Any] = {}
    if _is_theirs(dictionaries, text, lambda known: known.text):
        own = _settings(dictionaries, given)
        if "context" not in given and _is_theirs(dictionaries, model, lambda known: known.model):
            own["context"] = _common(dictionaries, "context", lambda known: known.context or "")
    included = include_special if include_special is not None else _common(
        dictionaries, "include-special",
        lambda known: not known.exclude_special if known.text_hash else "",
    )  # fmt: skip
    chosen = model_of(dictionaries, model)
    return Origin(chosen, text or _text_of(dictionaries, chosen), own | given, not included)


def model_of(dictionaries: "Mapping[str, Trained]", model: str | None) -> str:
    """The model: as given, or else the one that the dictionaries were trained on.

    Raises:
        InputError: they were trained on different ones, or on one that is not there any more.
    """
    if model:
        return model
    name = _common(dictionaries, "model", lambda own: own.model)
    places = _known(dictionaries, lambda own: own.model_path)
    if found := _first_there([*places, *([name] if name else [])]):
        return found
    if places:
        raise InputError(_gone("model", name, places))
    if name and not name.startswith("builtin:"):
        Console(stderr=True).print(
            f"loading {name}, the dictionaries' model; of a local folder, name the path (--model)",
            highlight=False, markup=False,
        )  # fmt: skip
    return name or BUILTIN


def _text_of(dictionaries: "Mapping[str, Trained]", model: str) -> str:
    """The text that the dictionaries were trained on, as a source of documents."""
    from dictlearn.text.places import is_scheme, source_at

    name = _common(dictionaries, "text", lambda own: own.text)
    if not name:
        if model == BUILTIN:
            return BUILTIN
        raise InputError(
            f"these dictionaries do not know the text that they were trained on, and the model is "
            f"{model!r}: name a text with --text"
        )
    places = _known(dictionaries, lambda own: own.text_path)
    if found := _first_there([*places, name]):
        source = source_at(name, found)
        _require_unchanged(dictionaries, source)
        return source
    if places:
        raise InputError(_gone("text", name, places))
    if not is_scheme(name):
        raise InputError(
            f"these dictionaries were trained on the text {name!r}, of which only the name is "
            "known: name its file or folder with --text"
        )
    return name


def _require_unchanged(dictionaries: "Mapping[str, Trained]", source: str) -> None:
    """Raise a `ProvenanceError` if a text is not the one that a dictionary was trained on."""
    from dictlearn.text.corpora import source_hash

    known = {n: h for n, d in dictionaries.items() if (h := d.provenance.text_files_hash)}
    found = source_hash(source) if known else ""
    for name, hash in known.items():
        if hash != found:
            raise ProvenanceError(
                f"the text {source} is not the one that dictionary {name!r} was trained on: it has "
                "changed since; to use it as it is now, name it with --text"
            )


def _gone(what: str, name: str | None, places: list[str]) -> str:
    return (
        f"these dictionaries were trained on the {what} {name!r} in {places[0]}, where there is "
        f"none now: name its place with --{what}"
    )


def _first_there(places: list[str]) -> str | None:
    return next((place for place in places if Path(place).exists()), None)


def _settings(dictionaries: "Mapping[str, Trained]", given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which the dictionaries' text was read, but for those that are given."""
    left = set(_SETTINGS) - given.keys()
    if {"column", "ids_column"} & given.keys():  # one stands for the other
        left -= {"column", "ids_column"}
    known = (one.provenance.text_settings for one in dictionaries.values())
    there = {name for settings in known for name in settings}
    return {name: _setting(dictionaries, name) for name in sorted(left & there)}


def _setting(dictionaries: "Mapping[str, Trained]", name: str) -> Any:
    return _common(
        dictionaries, name.replace("_", "-"), lambda own: own.text_settings.get(name, "")
    )


def _is_theirs(
    dictionaries: "Mapping[str, Trained]", given: str | None, read: "Callable[[Provenance], str]"
) -> bool:
    """Whether a model or text is not given, or has the name of that of the training.

    Dictionaries of earlier versions know the names of local files without their paths.
    """
    from dictlearn.text.places import source_name

    own = [read(one.provenance) for one in dictionaries.values()]
    return given is None or all(name and source_name(given) == source_name(name) for name in own)


def _known(dictionaries: "Mapping[str, Trained]", read: "Callable[[Provenance], T]") -> list[T]:
    """The different values of the dictionaries that have one."""
    found: list[T] = []
    for one in dictionaries.values():
        value = read(one.provenance)
        if value and value not in found:
            found.append(value)
    return found


def _common(
    dictionaries: "Mapping[str, Trained]", name: str, read: "Callable[[Provenance], T]"
) -> T | None:
    """The value that all dictionaries have which know theirs: one that is unknown is ""."""
    found: list[tuple[T, str]] = []
    for own, dictionary in dictionaries.items():
        value = read(dictionary.provenance)
        if value != "" and value not in [other for other, _ in found]:
            found.append((value, own))
    if len(found) > 1:
        told = ", ".join(f"{value!r} ({own})" for value, own in found)
        raise InputError(f"the dictionaries differ in their {name}: {told}; name one with --{name}")
    return found[0][0] if found else None
