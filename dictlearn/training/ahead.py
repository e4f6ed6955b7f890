"""The next batch is read while the present one is learned from, where the two do not compete."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Read = Callable[[int], Any]
"""The batches of a step."""


@contextmanager
def reading_ahead(
    read: Read,
    tensors: Callable[[Any], Iterable[Tensor]],
    steps: int,
    device: torch.device,
    *,
    together: bool = False,
) -> Iterator[Read]:
    """`read`, to be asked for one step after the other: on a GPU it is then a step ahead.

    `tensors` gives those of what was read.

    A thread reads, on a stream of its own, while the GPU computes. On a CPU reading and learning
    would only share the cores, so there `read` is what it was; also where processes read
    `together`, since the order of their collective operations may not depend on threads. An error
    of a batch is raised when its step is asked for.
    """
    if device.type != "cuda" or together:
        yield read
        return
    stream = torch.cuda.Stream(device)

    def aside(step: int) -> Any:
        with torch.cuda.stream(stream):
            rows = read(step)
        stream.synchronize()
        return rows

    with ThreadPoolExecutor(1, "reading-ahead") as thread:
        ahead = Ahead(thread, aside, steps)

        def due(step: int) -> Any:
            rows = ahead(step)
            for x in tensors(rows):
                if x.is_cuda:  # its memory is not reused before what is queued has read it
                    x.record_stream(torch.cuda.current_stream(device))
            return rows

        yield due


class Ahead:
    """`read(step)`, begun in a thread when the step before was asked for."""

    def __init__(self, thread: ThreadPoolExecutor, read: Read, steps: int) -> None:
        self._thread, self._read, self._steps = thread, read, steps
        self._begun: tuple[int, Future[Any]] | None = None

    def __call__(self, step: int) -> Any:
        """The batches read for `step`; raises the error if reading failed."""
        rows = self._reading(step).result()
        self._begun = None
        if step + 1 < self._steps:
            self._begun = step + 1, self._reading(step + 1)
        return rows

    def _reading(self, step: int) -> Future[Any]:
        if self._begun and self._begun[0] == step:
            return self._begun[1]
        return self._thread.submit(self._read, step)
