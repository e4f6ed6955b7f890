"""Learners that diverge, and leave the run to the others."""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dictlearn.core.files import read_tensors
from dictlearn.training.checkpoints import CHECKPOINT_FILE, state_of
from dictlearn.training.run import Run

_logger = logging.getLogger(__name__)


def numbers(
    scalars: Mapping[str, Mapping[str, Tensor]], step: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The scalars as numbers, and the learners whose loss is not finite, each with the reason."""
    values = {
        name: {metric: float(value) for metric, value in metrics.items()}
        for name, metrics in scalars.items()
    }
    bad = {
        name: f"{name!r} diverged: its loss is {metrics['loss']} at step {step}; lower "
        "learning_rate, or set max_gradient_norm"
        for name, metrics in values.items()
        if not math.isfinite(metrics.get("loss", 0.0))
    }
    return values, bad


def stop(run: Run, bad: Mapping[str, str]) -> dict[str, str]:
    """The reasons, once learners are back in the state of the last checkpoint if there is one."""
    reasons = dict(bad)
    for name, reason in bad.items():
        _logger.warning("%s; the others go on", reason)
        path = run.folder and run.folder / CHECKPOINT_FILE
        if path and path.exists() and (state := state_of(name, read_tensors(path))):
            run.learners[name].load_state(state)
            reasons[name] += f"; its state of step {int(state.get('step', 0))} is kept"
    return reasons


def diverged(run: Run, step: int, stopped: Mapping[str, str]) -> dict[str, str]:
    """The learners whose weights are no longer finite; the loss was computed before the step."""
    bad = {
        name: f"{name!r} diverged: {key} holds NaN or infinity after step {step}"
        for name, state in run.states().items()
        for key, tensor in state.items()
        if name not in stopped and not torch.isfinite(tensor).all()
    }
    return {name: why for found in run.group.all_gather_object(bad) for name, why in found.items()}


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether every number of a learner's state is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
