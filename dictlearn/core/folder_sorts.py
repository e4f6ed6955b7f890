"""The sorts of folders that are kept apart: none lies in, or on top of, one of another sort."""

from pathlib import Path
from typing import NamedTuple

from dictlearn.core.errors import InputError
from dictlearn.core.file_lists import LIST_FILE


class Sort(NamedTuple):
    """A sort of folder, known by files of which it has all."""

    name: str
    """What it holds, in words."""
    files: tuple[str, ...]
    """None for what nothing has to be kept apart from."""

    def is_sort_of(self, folder: Path) -> bool:
        """Whether `folder` is of this sort."""
        return all((folder / name).is_file() for name in self.files)


ACTIVATIONS = Sort("harvested activations", ("manifest.json", "shard_00000.safetensors"))
DICTIONARY = Sort("a dictionary", ("config.json", "weights.safetensors"))
REPORT = Sort("a report", ("report.json", LIST_FILE))
RESULTS = Sort("results", ())
EXPORTED = Sort("another library's files", ())
_SORTS = (ACTIVATIONS, DICTIONARY, REPORT)


def require_apart(folder: Path, sort: Sort) -> None:
    """Check that `folder` is neither of another sort than `sort`, nor inside such a folder.

    A folder of several dictionaries may lie around any other, but what is not a dictionary has no
    place on top of it.

    Raises:
        InputError: it is.
    """
    others = [other for other in _SORTS if other != sort]
    for place in (folder, *folder.resolve().parents):
        for other in others:
            if other.is_sort_of(place):
                raise _refusal(place, other, sort, folder)
    if sort != DICTIONARY:
        inner = (p.parent for at in ("*", "seed*/*") for p in folder.glob(f"{at}/config.json"))
        if any(map(DICTIONARY.is_sort_of, inner)):
            raise _refusal(folder, Sort("dictionaries", ()), sort, folder)


def _refusal(place: Path, held: Sort, sort: Sort, folder: Path) -> InputError:
    where = "" if place == folder else f" (in {folder})"
    return InputError(
        f"{place} holds {held.name}, among which there is no place for {sort.name}{where}: choose "
        "another folder"
    )
