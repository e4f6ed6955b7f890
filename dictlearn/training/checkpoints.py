"""Checkpoints: one file a run, replaced as a whole, so that the last good one is always there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import entries_of, plain_data, read_tensors, typed
from dictlearn.core.learning import Learner
from dictlearn.core.own_files import OwnFiles

CHECKPOINT_FILE = "checkpoint.safetensors"

States = Mapping[str, Mapping[str, Tensor]]
"""The state of the learner of each dictionary."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint beside the states."""

    step: int
    description: dict[str, Any]
    """The settings of the run: a checkpoint continues only the run that wrote it."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Dictionaries that diverged, each with the reason."""


def save_checkpoint(own: OwnFiles, states: States, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run by the states of its learners."""
    tensors = {
        f"{name}//{key}": tensor for name, state in states.items() for key, tensor in state.items()
    }
    told = {key: json.dumps(value, sort_keys=True) for key, value in vars(checkpoint).items()}
    own.write_tensors(CHECKPOINT_FILE, tensors, told)


def load_checkpoint(
    own: OwnFiles, learners: Mapping[str, Learner], description: Mapping[str, Any]
) -> Checkpoint:
    """Restore all learners from the checkpoint in the folder; one of step 0 if there is none.

    The run may continue with fewer dictionaries than it began with: none depends on another.

    Raises:
        InputError: the checkpoint is of another run; the differing settings are named.
        CorruptFileError: the file is damaged.
    """
    path = own.path / CHECKPOINT_FILE
    if not path.exists():
        return Checkpoint(0, dict(description))
    own.require_unaltered(CHECKPOINT_FILE)
    told = _told(path)
    begun = dict(told.description)
    begun["dictionaries"] = {
        name: entry
        for name, entry in begun.get("dictionaries", {}).items()
        if name in description["dictionaries"]
    }
    if differing := differences(begun, description):
        raise InputError(
            f"{path} is the checkpoint of another run (it differs in {', '.join(differing)}); "
            "choose another folder, or overwrite that run (overwrite=True, --overwrite)"
        )
    tensors = read_tensors(path)
    with entries_of(path):
        for name, learner in learners.items():
            state = state_of(name, tensors)
            if name not in told.stopped and int(state.get("step", told.step)) != told.step:
                raise ValueError(f"{name} is of step {int(state['step'])}, and not {told.step}")
            if state or name not in told.stopped:
                learner.load_state(state)
    return replace(told, stopped={k: why for k, why in told.stopped.items() if k in learners})


def state_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of one learner among the tensors of a checkpoint; empty if it has none."""
    prefix = f"{name}//"
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def _told(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CorruptFileError(f"{path}: cannot be read as safetensors ({error})") from error
    with entries_of(path):
        return typed({key: plain_data(value) for key, value in metadata.items()
                      if key != "fingerprint"}, Checkpoint)  # fmt: skip


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Dotted names of the settings in which two descriptions differ."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{key}.{inner}" for inner in differences(a, b)]
        elif json.loads(json.dumps(a)) != json.loads(json.dumps(b)):  # tuples are lists, 10 is 10.0
            found.append(key)
    return found
