"""Checkpoints: one file a run, replaced as a whole, so that the last good one is always there."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import read_tensors
from dictlearn.core.learning import Learner
from dictlearn.core.own_files import OwnFiles

CHECKPOINT_FILE = "checkpoint.safetensors"

States = Mapping[str, Mapping[str, Tensor]]
"""The state of the learner of each dictionary."""


def fingerprint(description: Mapping[str, Any]) -> str:
    """A hash of the settings of a run: a checkpoint continues only the run that wrote it."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def save_checkpoint(
    own: OwnFiles, states: States, step: int, description: Mapping[str, Any]
) -> None:
    """Replace the checkpoint of a run by the states of all learners after `step` steps."""
    tensors = {
        f"{name}//{key}": tensor for name, state in states.items() for key, tensor in state.items()
    }
    metadata = {
        "step": str(step),
        "fingerprint": fingerprint(description),
        "description": json.dumps(description, sort_keys=True),
    }
    own.write_tensors(CHECKPOINT_FILE, tensors, metadata)


def load_checkpoint(
    folder: Path, learners: Mapping[str, Learner], description: Mapping[str, Any]
) -> int:
    """Restore all learners from the checkpoint in `folder`; the steps taken, 0 without one.

    Raises:
        InputError: the checkpoint is of another run; the differing settings are named.
        CorruptFileError: the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(f"{path}: cannot be read as safetensors ({error})") from error
    if metadata.get("fingerprint") != fingerprint(description):
        differing = differences(json.loads(metadata.get("description", "{}")), description)
        raise InputError(
            f"{path} is the checkpoint of another run (it differs in {', '.join(differing)}); "
            "choose another folder, or overwrite that run (overwrite=True, --overwrite)"
        )
    tensors = read_tensors(path)
    for name, learner in learners.items():
        prefix = f"{name}//"
        learner.load_state(
            {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        )
    return int(metadata["step"])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings in which two descriptions differ."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{key}.{inner}" for inner in differences(a, b)]
        elif json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True):
            found.append(key)
    return found
