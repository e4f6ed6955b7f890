"""Run as a program: trains in two processes as `dictlearn train --nproc 2` does, up to one step.

There each process waits for ever, so that whoever kills the command kills it at that step.

    python held_run.py STORE RECIPE OUT
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from dictlearn.activations.store import ActivationStore
from dictlearn.config_files import read_config_file
from dictlearn.core.batches import Rows
from dictlearn.distributed.launching import launch
from dictlearn.training.fit import fit

HELD_AT = 55
"""The step, from 0: after the checkpoint of step 40 and the line of the log that follows it."""


class Held(ActivationStore):
    """A store whose rows of one step never come; a line of output says when they are asked for."""

    def rows_of(self, rank: int, world_size: int, seed: int, step: int, n: int) -> Rows:
        if step == HELD_AT:
            os.write(1, b"held\n")  # in one piece: the other process writes there too
            while True:
                signal.pause()
        return super().rows_of(rank, world_size, seed, step, n)

    def __reduce__(self) -> tuple[Any, ...]:
        return Held.open, (self.path,)


if __name__ == "__main__":
    store, recipe, out = map(Path, sys.argv[1:])
    file = read_config_file(recipe)
    launch(2, fit, file.configs, Held.open(store), file.fit, out=out)
