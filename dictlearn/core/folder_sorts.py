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
    lacks: str = ""
    """A file that folders of another sort have besides."""

    def is_sort_of(self, folder: Path) -> bool:
        """Whether `folder` is of this sort."""
        has_all = all((folder / name).is_file() for name in self.files)
        return has_all and not (self.lacks and (folder / self.lacks).is_file())


ACTIVATIONS = Sort("harvested activations", ("manifest.json", "shard_00000.safetensors"))
DICTIONARY = Sort("a dictionary", ("config.json", "weights.safetensors"), "saved_model.json")
REPORT = Sort("a report", ("report.json", LIST_FILE))
RESULTS = Sort("results", ())
EXPORTED = Sort("another library's files", ())
_SORTS = (ACTIVATIONS, DICTIONARY, REPORT)


def require_apart(folder: Path, sort: Sort) -> None:
    """Check that `folder` is neither of another sort than `sort`, nor inside such a folder.

    Nothing has a place on top of a folder of several dictionaries, which would hide them, or within
    a dictionary's folder.

    Raises:
        InputError: it is.
    """
    for place in (folder, *folder.resolve().parents):
        for other in _SORTS:
            may_be = other == sort and (place == folder or other != DICTIONARY)
            if not may_be and other.is_sort_of(place):
                raise _refusal(place, other, sort, folder)
    inner = (p.parent for at in ("*", "seed*/*") for p in folder.glob(f"{at}/config.json"))
    if any(map(DICTIONARY.is_sort_of, inner)):
        raise _refusal(folder, Sort("dictionaries", ()), sort, folder)


def _refusal(place: Path, held: Sort, sort: Sort, folder: Path) -> InputError:
    where = "" if place == folder else f" (in {folder})"
    return InputError(
        f"{place} holds {held.name}, among which there is no place for {sort.name}{where}: choose "
        "another folder"
    )
