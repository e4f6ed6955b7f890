"""The command that says which fast paths this machine takes."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dictlearn.cli.terminal import console, say


def doctor(
    again: Annotated[bool, typer.Option("--again", help="Time the searches once more.")] = False,
) -> None:
    """Show which searches for active features are fastest on this processor, and which are used.

    With a GPU, also whether sparse products run by Triton there.
    """
    from dictlearn.core.shortcuts import SWITCH, shortcuts_allowed
    from dictlearn.kernels import fastest, gathering
    from dictlearn.kernels.kept import is_kept
    from dictlearn.kernels.rounding import bfloat16_tiles, int8_tiles

    if again:
        fastest.forget()
        gathering.forget()
    with console.status("timing searches on this processor, once"):
        found = fastest.timings()
    used = found.exact() if shortcuts_allowed() else None
    table = Table("search", "time", "used", box=None, pad_edge=False)
    rows = (
        ("exact, by all scores in float32", 1.0, used is None),
        ("exact, by bounds from bfloat16 products", found.bfloat16, used is bfloat16_tiles),
        ("exact, by bounds from int8 products", found.int8, used is int8_tiles),
        ("int8_search=True: candidates from int8 products", found.int8_search, None),
    )
    for name, time, is_used in rows:
        told = "not on this processor" if time is None else f"{time:.2f}"
        if is_used is None:
            verdict = (
                "no" if not shortcuts_allowed()
                else "on request" if found.int8_search_pays()
                else "refused: " + found.of_int8_search()
            )  # fmt: skip
        else:
            verdict = "yes" if is_used else "no"
        table.add_row(*map(escape, (name, told, verdict)))
    say(found.machine)
    console.print(table)
    file = fastest.path()
    where = f"kept in {file}" if is_kept(file) else f"not kept, for {file} cannot be written"
    say(f"Times are in units of the first. They are {where}")
    say(fastest.SIZES)
    for told in gathering.told():
        say(told)
    if not shortcuts_allowed():
        say(f"Shortcuts are switched off by {SWITCH}")
