"""Compiled loops beside torch."""

import os
import subprocess
import sys

PROGRAM = """
import numba, torch
torch.set_num_threads(1)
from dictlearn.kernels.native import run

def fill(x):
    for i in numba.prange(len(x)):
        x[i] = 1.0

x = torch.zeros(10)
run(numba.njit(parallel=True)(fill), x)
assert x.sum() == 10
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""


def test_starting_the_threads_of_loops_leaves_those_of_torch_alone():
    """In a process of its own: they start once."""
    subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=True,
        env={**os.environ, "NUMBA_NUM_THREADS": "2"},
    )
