"""Processes that may write nowhere but where they are told to, as in a container."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

_PR_CAPBSET_DROP = 24
_N_CAPABILITIES = 64


def read_only(folder: Path) -> Path:
    """The folder, in which nothing can be written any more."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


def copied(source: Path, to: Path) -> Path:
    """A read-only copy of a package, without what was compiled for it."""
    shutil.copytree(source, to / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return read_only(to)


def run(*command: str | Path, folder: Path, home: Path, **environment: str) -> str:
    """What a command printed, which the permissions of files bind even where root runs it.

    It is started in `folder`; `home` is its home folder, and no other variable is inherited.
    """
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=variables | environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=_without_capabilities if sys.platform == "linux" else None,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def _without_capabilities() -> None:
    """Let the program that is executed next have none of root's rights."""
    prctl = ctypes.CDLL(None).prctl
    for capability in range(_N_CAPABILITIES):
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
