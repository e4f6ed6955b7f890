"""Model, text and context of a command: as given, or else those that its dictionaries have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from rich.console import Console

from dictlearn.core.errors import InputError

if TYPE_CHECKING:
    from dictlearn.core.provenance import Provenance

T = TypeVar("T")
BUILTIN = "builtin:stories"


@runtime_checkable
class Trained(Protocol):
    """A dictionary, or its description without weights (`dictionaries.files.described`)."""

    @property
    def provenance(self) -> "Provenance":
        """The origin of the activations that it was trained on."""


class Origin(NamedTuple):
    """Model, text and context that dictionaries are used with."""

    model: str
    text: str
    context: int | None


def origin(
    dictionaries: "Mapping[str, Trained]",
    model: str | None = None,
    text: str | None = None,
    context: int | None = None,
) -> Origin:
    """Model, text and context: as given, or else those that the dictionaries were trained with.

    For dictionaries that do not know theirs, they are the built-in model and text.

    Raises:
        InputError: dictionaries were trained with different ones, and none is given.
    """
    chosen = model_of(dictionaries, model)
    found = text or _common(dictionaries, "text", lambda own: own.text)
    if not text and found and not (found.startswith(("builtin:", "hf:")) or Path(found).exists()):
        raise InputError(
            f"these dictionaries were trained on the text {found!r}, of which only the name is "
            "kept: name its file or folder with --text"
        )
    if not found and chosen != BUILTIN:
        raise InputError(
            f"these dictionaries do not know the text that they were trained on, and the model is "
            f"{chosen!r}: name a text with --text"
        )
    if context is None and _is_theirs(dictionaries, model, text):
        context = _common(dictionaries, "context", lambda own: own.context)
    return Origin(chosen, found or BUILTIN, context)


def model_of(dictionaries: "Mapping[str, Trained]", model: str | None) -> str:
    """The model: as given, or else the one that the dictionaries were trained on."""
    if model:
        return model
    found = _common(dictionaries, "model", lambda own: own.model) or BUILTIN
    if not found.startswith("builtin:") and not Path(found).exists():
        Console(stderr=True).print(
            f"loading {found}, the dictionaries' model; of a local folder, name the path (--model)",
            highlight=False, markup=False,
        )  # fmt: skip
    return found


def _is_theirs(dictionaries: "Mapping[str, Trained]", model: str | None, text: str | None) -> bool:
    """Whether model and text are not given, or are paths to those of the training.

    Of local files and folders, dictionaries know the names without their paths.
    """
    known = [one.provenance for one in dictionaries.values()]
    return all(
        given is None or all(Path(given).name == Path(own).name for own in owned)
        for given, owned in ((model, [o.model for o in known]), (text, [o.text for o in known]))
    )


def _common(
    dictionaries: "Mapping[str, Trained]", name: str, read: "Callable[[Provenance], T]"
) -> T | None:
    """The value that all dictionaries have which have one."""
    found: dict[Any, str] = {}
    for own, dictionary in dictionaries.items():
        value = read(dictionary.provenance)
        if value:
            found.setdefault(value, own)
    if len(found) > 1:
        told = ", ".join(f"{value!r} ({own})" for value, own in found.items())
        raise InputError(f"the dictionaries differ in their {name}: {told}; name one with --{name}")
    return next(iter(found), None)
