"""Folders that commands write results to."""

import os
from collections.abc import Iterable
from pathlib import Path

from dictlearn.core.errors import InputError
from dictlearn.core.folders import require_writable
from dictlearn.core.own_files import OwnFiles


def results_in(
    out: Path, names: Iterable[str], *, overwrite: bool, run: str = "results"
) -> OwnFiles:
    """The folder `out`, to which a command may write the files `names`; asked before work starts.

    The folder is not made yet, so that a command that is refused leaves none.

    Raises:
        InputError: one is there already, of an earlier run that is not to be overwritten; or it is
            none that this kind of run wrote.
        StorageError: the folder cannot be written.
    """
    require_writable(out)
    own, names = OwnFiles(out, run), list(names)
    own.require(*names)
    require_none(own, names, overwrite=overwrite)
    return own


def require_none(own: OwnFiles, names: Iterable[str], *, overwrite: bool) -> None:
    """Raise an `InputError` if one of the files is there, and not to be overwritten."""
    found = [name for name in names if os.path.lexists(own.path / name)]
    if found and not overwrite:
        raise InputError(
            f"{own.path} holds {', '.join(found)} of an earlier run: choose another folder, or "
            "replace what that run wrote there (--overwrite)"
        )
