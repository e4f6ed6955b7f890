"""The processes that share one run: which of them this is, and how they put together what each has.

A run in one process is `ALONE`, for which every operation leaves its argument as it is, so that
learners and objectives are written once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from dictlearn.core.errors import DictLearnError, ProcessError

T = TypeVar("T")


class Ranks:
    """A run in one process.

    Row `i` of a batch belongs to rank `i % size`; all ranks hold equally many.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks; no gradient passes."""
        return t

    def mean(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The mean of `t` over all ranks; no gradient passes."""
        return t

    def smallest(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The smallest of each entry of `t` over all ranks; no gradient passes."""
        return t

    def means(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over all ranks, for the price of one message."""
        return list(tensors)

    def only_largest(self, values: Shaped[Tensor, "*b m"], k: int) -> Shaped[Tensor, "*b m"]:
        """`values` where they are among the `k` largest of all ranks, zero elsewhere.

        Each rank gives its own `k` largest or, where it has fewer, all; as many as the others.
        """
        return values

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's tensors."""

    def collect(self, thing: T) -> list[T]:
        """What every rank has, in their order."""
        return [thing]

    def agree(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it has succeeded on every rank; it may not use the ranks.

        Without this, a rank that fails would leave the others waiting for it.

        Raises:
            Exception: it failed on this rank or, if it did not, as it failed on another.
        """
        return work()


ALONE = Ranks()


class Processes(Ranks):
    """The processes of `torch.distributed`, which is set up when this is made.

    Raises:
        ProcessError: (by every method) another process has ended.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def sum(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks; no gradient passes."""
        return _reduced(t, dist.ReduceOp.SUM)

    def mean(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The mean of `t` over all ranks; no gradient passes."""
        return self.sum(t) / self.size

    def smallest(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The smallest of each entry of `t` over all ranks; no gradient passes."""
        return _reduced(t, dist.ReduceOp.MIN)

    def means(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over all ranks, for the price of one message."""
        flat = torch.cat([t.detach().flatten() for t in tensors])
        with _peers_alive():
            dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([t.numel() for t in tensors])
        return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]

    def only_largest(self, values: Shaped[Tensor, "*b m"], k: int) -> Shaped[Tensor, "*b m"]:
        """`values` where they are among the `k` largest of all ranks, zero elsewhere.

        All ranks rank the same numbers, so that of equal ones exactly as many remain as may.
        """
        own = values.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _peers_alive():
            dist.all_gather(parts, own)
        everyone = torch.cat(parts, dim=-1)
        kept = everyone.topk(min(k, everyone.shape[-1]), dim=-1, sorted=False).indices
        keep = torch.zeros_like(everyone, dtype=torch.bool).scatter_(-1, kept, True)
        return values.where(keep.split(own.shape[-1], dim=-1)[self.rank], 0.0)

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's tensors."""
        for tensor in tensors:
            with _peers_alive():
                dist.broadcast(tensor, src=0)

    def collect(self, thing: T) -> list[T]:
        """What every rank has, in their order."""
        things: list[Any] = [None] * self.size
        with _peers_alive():
            dist.all_gather_object(things, thing)
        return things

    def agree(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it has succeeded on every rank; it may not use the ranks."""
        own: Exception | None = None
        try:
            result = work()
        except Exception as error:
            own = error
        # One number as a rule: the errors themselves travel only where there are any.
        if int(self.sum(torch.tensor(int(own is not None)))) == 0:
            return result
        failures = [error for error in self.collect(_portable(own, self.rank)) if error]
        raise own or failures[0]


def _reduced(t: Tensor, operation: Any) -> Tensor:
    result = t.detach().clone()
    with _peers_alive():
        dist.all_reduce(result, op=operation)
    return result


def _portable(error: Exception | None, rank: int) -> DictLearnError | None:
    """An error as other processes can read it: foreign ones may not survive the way."""
    if error is None or isinstance(error, DictLearnError):
        return error
    return ProcessError(f"process {rank} of this run failed: {error!r}")


@contextmanager
def _peers_alive() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "another process of this run has ended or does not answer; its own message says why "
            f"({error})"
        ) from error
