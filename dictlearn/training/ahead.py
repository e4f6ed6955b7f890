"""The next batch is read while the present one is learned from, where the two do not compete."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from dictlearn.core.batches import Rows

Read = Callable[[int], dict[bool, Rows]]
"""The batches of a step: those divided between processes, and whole ones."""


@contextmanager
def reading_ahead(
    read: Read, steps: int, device: torch.device, *, together: bool = False
) -> Iterator[Read]:
    """`read`, to be asked for one step after the other: on a GPU it is then a step ahead.

    A thread reads, on a stream of its own, while the GPU computes. On a CPU reading and learning
    would only share the cores, so there `read` is what it was; also where processes read
    `together`, since the order of their collective operations may not depend on threads. An error
    of a batch is raised when its step is asked for.
    """
    if device.type != "cuda" or together:
        yield read
        return
    stream = torch.cuda.Stream(device)

    def aside(step: int) -> dict[bool, Rows]:
        with torch.cuda.stream(stream):
            rows = read(step)
        stream.synchronize()
        return rows

    with ThreadPoolExecutor(1, "reading-ahead") as thread:
        ahead = Ahead(thread, aside, steps)

        def due(step: int) -> dict[bool, Rows]:
            rows = ahead(step)
            for part in rows.values():
                for x in part.at.values():
                    if x.is_cuda:  # its memory is not reused before what is queued has read it
                        x.record_stream(torch.cuda.current_stream(device))
            return rows

        yield due


class Ahead:
    """`read(step)`, begun in a thread when the step before was asked for."""

    def __init__(self, thread: ThreadPoolExecutor, read: Read, steps: int) -> None:
        self._thread, self._read, self._steps = thread, read, steps
        self._begun: tuple[int, Future[dict[bool, Rows]]] | None = None

    def __call__(self, step: int) -> dict[bool, Rows]:
        """The batches read for `step`; raises the error if reading failed."""
        rows = self._reading(step).result()
        self._begun = None
        if step + 1 < self._steps:
            self._begun = step + 1, self._reading(step + 1)
        return rows

    def _reading(self, step: int) -> Future[dict[bool, Rows]]:
        if self._begun and self._begun[0] == step:
            return self._begun[1]
        return self._thread.submit(self._read, step)
