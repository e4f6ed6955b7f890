"""The process group of a run: rank, world size, and collective operations.

A run in one process has the group `SINGLE`, so that learners and objectives are written once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from dictlearn.core.batches import Read, Rows
from dictlearn.core.errors import DictLearnError, InputError, ProcessError

T = TypeVar("T")


class ProcessGroup:
    """A rank, the world size, and the collective operations of `torch.distributed`.

    Row `i` of a batch belongs to rank `i % world_size`; all ranks hold equally many. In a group of
    one process, every operation returns its argument.

    Raises:
        ProcessError: (by every method) another process has ended.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._told: Exception | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes."""
        return self.rank == 0

    def all_reduce(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks; no gradient passes."""
        return t if self.world_size == 1 else _reduced(t, dist.ReduceOp.SUM)

    def all_reduce_mean(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The mean of `t` over all ranks; no gradient passes."""
        return t if self.world_size == 1 else self.all_reduce(t) / self.world_size

    def all_reduce_min(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The smallest of each entry of `t` over all ranks; no gradient passes."""
        return t if self.world_size == 1 else _reduced(t, dist.ReduceOp.MIN)

    def all_reduce_means(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor's mean over all ranks, at the cost of one message."""
        if self.world_size == 1:
            return list(tensors)
        flat = torch.cat([t.detach().flatten() for t in tensors])
        with _peers_alive():
            dist.all_reduce(flat)
        flat /= self.world_size
        parts = flat.split([t.numel() for t in tensors])
        return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]

    def all_reduce_forward(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks, whose gradient reaches each rank's `t` as it is.

        For a sum over features that are divided between ranks: what follows from it is computed
        by each of them alike.
        """
        return t if self.world_size == 1 else _AllReduceForward.apply(t)

    def all_reduce_backward(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """`t`, which is equal on all ranks; its gradient is the sum of those of all ranks.

        For a parameter on which all features depend, where these are divided between ranks.
        """
        return t if self.world_size == 1 else _AllReduceBackward.apply(t)

    def global_top_k(self, values: Shaped[Tensor, "*b m"], k: int) -> Shaped[Tensor, "*b m"]:
        """`values` where they are among the `k` largest of all ranks, zero elsewhere.

        Each rank gives its own `k` largest or, where it has fewer, all. All ranks sort the same
        numbers, so ties break alike on every rank.
        """
        if self.world_size == 1:
            return values
        m = values.shape[-1]
        own = pad(values.detach(), (0, k - m), value=-torch.inf).contiguous()
        everyone = torch.cat(self._gathered(own), dim=-1)
        kept = everyone.topk(k, dim=-1, sorted=False).indices
        keep = torch.zeros_like(everyone, dtype=torch.bool).scatter_(-1, kept, True)
        return values.where(keep.split(k, dim=-1)[self.rank][..., :m], 0.0)

    def all_gather(self, t: Shaped[Tensor, "..."], axis: int) -> Shaped[Tensor, "..."]:
        """The tensors of all ranks, of one shape, side by side along `axis`, on the CPU."""
        if self.world_size == 1:
            return t
        return torch.cat(self._gathered(t.detach().cpu().contiguous()), dim=axis)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        with _peers_alive():
            dist.all_gather(parts, own)
        return parts

    def slice_of(self, n: int) -> tuple[slice, int]:
        """The slice of this rank's `n` elements among those of all ranks, and the total number."""
        counts = self.all_gather_object(n)
        first = sum(counts[: self.rank])
        return slice(first, first + n), sum(counts)

    def broadcast_(self, tensors: Iterable[Tensor], source: int = 0) -> None:
        """Overwrite the tensors of all ranks by those of rank `source`."""
        for tensor in tensors if self.world_size > 1 else ():
            told = tensor.contiguous()
            with _peers_alive():
                dist.broadcast(told, src=source)
            tensor.copy_(told)

    def all_gather_object(self, thing: T) -> list[T]:
        """The object of every rank, in their order."""
        if self.world_size == 1:
            return [thing]
        things: list[Any] = [None] * self.world_size
        with _peers_alive():
            dist.all_gather_object(things, thing)
        return things

    def any(self, holds: bool) -> bool:
        """Whether something holds on any rank."""
        return bool(self.all_reduce(torch.tensor(int(holds))))

    def all_succeed(self, work: Callable[[], T]) -> T:
        """The result of `work`, once it has succeeded on every rank.

        Without this, a rank that fails would leave the others waiting for it. `work` may call
        `all_succeed` and `divided` itself: a rank that waits there for one that has failed
        meanwhile, at whatever depth, learns of it, and both leave every `all_succeed`.

        Raises:
            Exception: it failed on this rank or, if it did not, as it failed on another.
        """
        if self.world_size == 1:
            return work()
        own: Exception | None = None
        try:
            result = work()
        except Exception as error:
            if error is self._told:  # by an `all_succeed` inside `work`: the others have left too
                raise
            own = error
        # One number as a rule: the errors themselves travel only where there are any.
        if not self.any(own is not None):
            return result
        failures = [error for error in self.all_gather_object(_portable(own, self.rank)) if error]
        self._told = own or failures[0]
        raise self._told

    def divided(self, read: Read) -> Read:
        """`read`, each rank reading its share of the parts, and all receiving the rows of all.

        Part `i` belongs to rank `i % world_size`. Rows arrive in main memory, bit for bit as they
        were read. All ranks have to ask for the same parts in the same order.

        Raises:
            Exception: (by the result) reading failed on some rank.
            InputError: (by the result) the ranks ask for different parts.
        """
        return read if self.world_size == 1 else partial(self._read_together, read)

    def _read_together(self, read: Read, parts: Sequence[Tensor]) -> list[Rows]:
        own = self.all_succeed(lambda: read(parts[self.rank :: self.world_size]))
        asked = [part.tolist() for part in parts]
        likes = [{hook: x.to("meta") for hook, x in rows.at.items()} for rows in own]
        everyone = self.all_gather_object((asked, likes))
        if any(other != asked for other, _ in everyone):
            raise InputError(
                "required that all processes read the same blocks, got different ones: each must "
                "make the same calls, with the same tokens and seed"
            )
        received = []
        for i in range(len(parts)):
            turn, owner = divmod(i, self.world_size)
            is_own = owner == self.rank
            rows = own[turn].at if is_own else everyone[owner][1][turn]
            at = {
                h: x.cpu() if is_own else torch.empty_like(x, device="cpu") for h, x in rows.items()
            }
            self.broadcast_(at.values(), owner)
            received.append(Rows(at))
        return received


SINGLE = ProcessGroup()
"""The group of a run in one process."""


class _AllReduceForward(torch.autograd.Function):
    """See `ProcessGroup.all_reduce_forward`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return _reduced(t, dist.ReduceOp.SUM)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _AllReduceBackward(torch.autograd.Function):
    """See `ProcessGroup.all_reduce_backward`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    @once_differentiable  # a second derivative is an error, and not a wrong number
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0], dist.ReduceOp.SUM)


def _reduced(t: Tensor, operation: Any) -> Tensor:
    result = t.detach().clone(memory_format=torch.contiguous_format)
    with _peers_alive():
        dist.all_reduce(result, op=operation)
    return result


def _portable(error: Exception | None, rank: int) -> DictLearnError | None:
    """An error in a form that can be pickled, which errors of other libraries may not allow."""
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
