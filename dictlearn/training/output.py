"""The folder of a run: made ready, checkpoints, and at the end the dictionaries."""

from collections.abc import Mapping
from pathlib import Path

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError
from dictlearn.core.files import entries_of, read_own_json, typed, writable_folder
from dictlearn.core.folder_sorts import DICTIONARY, require_apart
from dictlearn.core.own_files import OwnFiles
from dictlearn.dictionaries.files import CONFIG_FILE, WEIGHTS_FILE, save
from dictlearn.training.checkpoints import CHECKPOINT_FILE, Checkpoint, save_checkpoint
from dictlearn.training.divergence import is_finite
from dictlearn.training.fit_run import FitRun
from dictlearn.training.progress import LOG_FILE
from dictlearn.training.run import Outcome, Run

STOPPED_FILE = "stopped.json"
"""Dictionaries of the run that diverged, each with the reason; absent if there are none."""


def stopped_in(folder: Path) -> dict[str, str]:
    """The dictionaries of the finished run in `folder` that diverged, each with the reason.

    Raises:
        CorruptFileError: the file that tells was damaged.
    """
    path = folder / STOPPED_FILE
    if not path.exists():
        return {}
    with entries_of(path):
        data = read_own_json(path, "stopped dictionaries", "train again")
        return typed(data["stopped"], dict[str, str])


def prepare(run: Run, *, overwrite: bool) -> None:
    """Make the output folder writable and large enough; empty it of an earlier run on request.

    Whatever is to be written there has to have room: no file of others may be in its place.
    """
    own, learners = run.written, run.learners
    if own is None:
        return
    for place in run.places():
        require_apart(place.path, DICTIONARY)
    # Weights and two moments in a checkpoint, twice while it is replaced, and the result.
    weights = sum(t.nbytes for learner in learners.values() for t in learner.learned().values())
    checkpoint = own.path / CHECKPOINT_FILE
    present = checkpoint.stat().st_size if checkpoint.exists() else 0
    writable_folder(own.path, max(0, 7 * weights - present))
    finished = [
        str(found.path)
        for found in (own, *own.folders())
        if found.lists(CONFIG_FILE) and (found.path / CONFIG_FILE).exists()
    ]
    if finished and not overwrite and not checkpoint.exists():
        raise InputError(
            f"a trained dictionary is already in {', '.join(finished)}; choose another folder (to "
            "train it further, pass it as init=, --init), or overwrite that run (overwrite=True, "
            "--overwrite)"
        )
    for place in run.places():
        place.require(CONFIG_FILE, WEIGHTS_FILE)
    if overwrite and finished and run.continues:
        raise InputError(
            "training that starts from a dictionary (init=, --init) overwrites none, for that may "
            f"be the one: choose another folder than that of {', '.join(finished)}"
        )
    if overwrite:
        own.require(CHECKPOINT_FILE, LOG_FILE)
        own.clear()


def go_on(own: OwnFiles | None, start: int) -> None:
    """Ensure that log and checkpoint of a run from step `start` on can be written."""
    if own is not None:
        if start:  # the checkpoint is of this very run, if perhaps by a version without lists
            own.adopt(CHECKPOINT_FILE, LOG_FILE)
        own.require(CHECKPOINT_FILE, LOG_FILE)


def write_checkpoint(run: Run, told: Checkpoint) -> None:
    """Write a checkpoint, without the states of learners that diverged before their first one."""
    states = {name: state for name, state in run.states().items() if is_finite(state)}
    own = run.written
    run.group.all_succeed(lambda: save_checkpoint(own, states, told) if own else None)


def write_dictionaries(
    run: FitRun, dictionaries: Mapping[str, FeatureDictionary], outcome: Outcome
) -> None:
    """Give the dictionaries their origin and write them, if there is a folder."""
    for name, dictionary in dictionaries.items():
        dictionary.provenance = run.provenance_of(name, outcome.final.get(name, {}))
        if run.written:
            save(dictionary, run.written if run.single else run.written.folder(name))
    if run.written:
        for name in outcome.stopped:
            if is_finite(run.learners[name].state()):
                save(run.learners[name].finish(), run.written.folder(f"{name}.stopped"))
        if outcome.stopped:
            run.written.write_json(STOPPED_FILE, {"stopped": dict(outcome.stopped)})
        close(run.written)


def close(own: OwnFiles) -> None:
    """End a run whose results are written: without a checkpoint, it is not continued."""
    own.adopt(LOG_FILE)
    own.remove(CHECKPOINT_FILE)
