"""`python -m tests.rooms_coverage`: lines and branches that the tests ran, by room.

Reads the data that `make coverage` collected; the exit status is 1 if a room has less than it must.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

LEAST = 0.95
"""Share of the lines that must be run in each of these rooms."""
REQUIRED = ("core", "metrics", "kernels", "training", "activations", "records")
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def main() -> int:
    """Print the table, and the lines not run of rooms that have too few; the exit status."""
    import coverage  # only `make coverage` needs it

    measured = coverage.Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(path))
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    rooms: dict[str, Counter] = defaultdict(Counter)
    missing: dict[str, list[str]] = defaultdict(list)
    for name, found in sorted(files.items()):
        parts = Path(name).parts
        room = parts[parts.index("dictlearn") + 1].removesuffix(".py")
        rooms[room].update({key: found["summary"][key] for key in COUNTS})
        if found["missing_lines"]:
            missing[room].append(f"{name}: {', '.join(map(str, found['missing_lines']))}")
    rooms["all"] = sum(rooms.values(), Counter())
    table = Table("room", "lines", "run", "branches", "taken", box=None, pad_edge=False)
    failed = []
    for room, counts in rooms.items():
        lines, n_lines, branches, n_branches = (counts[key] for key in COUNTS)
        share = lines / max(n_lines, 1)
        if room in REQUIRED and share < LEAST:
            failed.append(room)
        shares = (f"{share:.1%}", f"{n_branches}", f"{branches / max(n_branches, 1):.1%}")
        style = "bold red" if room in failed else "bold" if room in REQUIRED else None
        table.add_row(room, f"{n_lines}", *shares, style=style)
    console = Console()
    console.print(table)
    for room in failed:
        console.print(
            f"\n{room}: less than {LEAST:.0%} of the lines were run. Those that were not:"
        )
        console.print("\n".join(missing[room]), highlight=False, soft_wrap=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
