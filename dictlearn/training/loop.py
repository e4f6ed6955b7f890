"""The only training loop."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import TypeVar

from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.distributed.interruption import Interrupted, Interruption, interruptible
from dictlearn.training.ahead import reading_ahead
from dictlearn.training.checkpoints import Checkpoint, differences, load_checkpoint
from dictlearn.training.divergence import diverged, numbers, stop
from dictlearn.training.output import go_on, prepare, write_checkpoint
from dictlearn.training.progress import LiveView, TrainingLog
from dictlearn.training.run import Outcome, Run

T = TypeVar("T")


def carried_out(run: Run, finish: Callable[[Outcome], T], *, overwrite: bool, show: bool) -> T:
    """The result of `finish` after all steps of a run, given how it ended.

    The run continues from its checkpoint if its folder has one. The folder is locked throughout.

    Raises:
        NonFiniteError: every learner diverged; the last checkpoint stays.
    """
    with ExitStack() as held:
        run.group.all_succeed(lambda: held.enter_context(run.locked()))
        start = _start(run, overwrite=overwrite)
        with interruptible() if run.folder else nullcontext(Interruption()) as interruption:
            outcome = _train(run, start, interruption, show=show)
        if len(outcome.stopped) == len(run.learners):
            raise NonFiniteError("; ".join(outcome.stopped.values()))
        return finish(outcome)


def _start(run: Run, *, overwrite: bool) -> Checkpoint:
    """The checkpoint to start from; the folder is made ready."""
    group, files = run.group, run.files
    for rank, other in enumerate(group.all_gather_object(run.description)):
        if other != run.description:
            raise InputError(
                f"every process must make the same call, and that of process {rank} differs from "
                f"that of {group.rank} in {', '.join(differences(other, run.description))}"
            )
    for learner in run.learners.values():
        if learner.shares_batch:
            group.broadcast_(learner.learned().values())
    group.all_succeed(lambda: prepare(run, overwrite=overwrite))
    if files is None:
        return Checkpoint(0, dict(run.description))
    start = group.all_succeed(lambda: load_checkpoint(files, run.learners, run.description))
    if len(starts := {found.step for found in group.all_gather_object(start)}) > 1:
        raise InputError(
            f"required a folder that all processes share, got {run.folder}, where they find "
            f"checkpoints of different steps ({', '.join(map(str, sorted(starts)))})"
        )
    group.all_succeed(lambda: go_on(run.written, start.step))
    return start


def _train(run: Run, start: Checkpoint, interruption: Interruption, *, show: bool) -> Outcome:
    """Give every learner every batch from the start on; log, show and write checkpoints.

    A learner that diverges stops, and the others go on.
    """
    config, group, stopped = run.config, run.group, dict(start.stopped)
    log = TrainingLog(run.written, start.step)
    device, together = config.torch_device, run.reads_together
    with (
        LiveView(run.learners, config.steps, start.step, show=show and group.is_main) as view,
        reading_ahead(run.read, run.tensors, config.steps, device, together=together) as read,
    ):
        for step in range(start.step, config.steps):
            learners = {name: x for name, x in run.learners.items() if name not in stopped}
            if not learners:
                break
            found = group.all_succeed(partial(read, step))
            scalars = {
                name: learner.update(run.batch(name, found, step))
                for name, learner in learners.items()
            }
            done = step + 1
            view.advance(done)
            last = done == config.steps
            bad: dict[str, str] = {}
            if config.is_logged(done):
                values, bad = numbers(scalars, done)
                view.show(values, log.write(done, values, config.batch_size))
            ends = bool(run.folder) and group.any(interruption.signal is not None)
            saves = last or ends or (run.folder and done % config.checkpoint_every == 0)
            if saves:
                bad = diverged(run, done, stopped) | bad
            reasons = stop(run, bad)
            stopped |= reasons
            log.stopped(done, reasons)
            if saves:
                if run.folder and len(stopped) < len(run.learners):
                    write_checkpoint(run, Checkpoint(done, dict(run.description), stopped))
                if ends and not last:
                    again = "to continue, make the same call again (without overwrite)"
                    raise Interrupted(f"stopped after step {done}; {again}")
    return Outcome(stopped, log.last)
