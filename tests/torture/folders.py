"""Two output folders compared: every byte, but for what tells time and chance."""

import json
import re
from pathlib import Path
from typing import Any

LIST_FILE, LOCK_FILE, LOG_FILE, PAGE_FILE = (
    "dictlearn.files", "dictlearn.lock", "train.jsonl", "report.md",
)  # fmt: skip
TIMED_KEYS = ("seconds", "rows_per_second")
"""Entries of a line of `train.jsonl` that are measured with a clock."""
TOOK = re.compile(r", in \d+\.\d minutes with \d+ threads?")
"""The part of `report.md` that says how long a study took that was not interrupted."""


def differences(found: Path, wanted: Path) -> list[str]:
    """The differences of the folder `found` from the folder `wanted`, each in words."""
    names, expected = _names(found), _names(wanted)
    told = [f"stray {name}" for name in sorted(names - expected)]
    told += [f"missing {name}" for name in sorted(expected - names)]
    for name in sorted(names & expected):
        if (found / name).is_file() and _content(found / name) != _content(wanted / name):
            told.append(f"different {name}")
    return told + _wrong_lists(found)


def _names(folder: Path) -> set[str]:
    """All files and folders inside, but for the lock file, which a killed process leaves behind."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.name != LOCK_FILE}


def _content(path: Path) -> Any:
    """What a file says, without time stamps, durations and random marks."""
    if path.name == LOG_FILE:
        lines = map(json.loads, path.read_text().splitlines())
        return [{k: v for k, v in line.items() if k not in TIMED_KEYS} for line in lines]
    if path.name == PAGE_FILE:
        return TOOK.sub("", path.read_text())
    if path.name == LIST_FILE:  # hashes, sizes and times are compared with the files themselves
        runs = json.loads(path.read_text())["runs"]
        return {
            run: {
                "files": sorted(n for n in entry["files"] if (path.parent / n).exists()),
                "folders": entry["folders"],
            }
            for run, entry in runs.items()
        }
    return path.read_bytes()


def _wrong_lists(folder: Path) -> list[str]:
    """Files that are not as their list says; a file is listed until after it is removed."""
    from dictlearn.core.file_lists import Version

    return [
        f"{path.relative_to(folder)} is wrong about {name}"
        for path in folder.rglob(LIST_FILE)
        for run in json.loads(path.read_text())["runs"].values()
        for name, versions in run["files"].items()
        if (path.parent / name).exists()
        and not (versions and Version(**versions[0]).is_in(path.parent / name))
    ]
