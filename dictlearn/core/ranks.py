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
from torch.nn.functional import pad

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

    def total(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks, whose gradient reaches each rank's `t` as it is.

        For a sum over features that are divided between ranks: what follows from it is computed
        by each of them alike.
        """
        return t

    def spread(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """`t`, which all ranks have alike; its gradient is the sum of what reaches it on each.

        For a parameter on which all features depend, where these are divided between ranks.
        """
        return t

    def only_largest(self, values: Shaped[Tensor, "*b m"], k: int) -> Shaped[Tensor, "*b m"]:
        """`values` where they are among the `k` largest of all ranks, zero elsewhere.

        Each rank gives its own `k` largest or, where it has fewer, all.
        """
        return values

    def joined(self, t: Shaped[Tensor, "..."], axis: int) -> Shaped[Tensor, "..."]:
        """The tensors of all ranks side by side along `axis`, on the CPU."""
        return t

    def place(self, n: int) -> tuple[slice, int]:
        """Where `n` things of this rank stand among those of all, and how many these are."""
        counts = self.collect(n)
        first = sum(counts[: self.rank])
        return slice(first, first + n), sum(counts)

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

    def total(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """The sum of `t` over all ranks, whose gradient reaches each rank's `t` as it is."""
        return _Total.apply(t)

    def spread(self, t: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        """`t`, which all ranks have alike; its gradient is the sum of what reaches it on each."""
        return _Spread.apply(t)

    def only_largest(self, values: Shaped[Tensor, "*b m"], k: int) -> Shaped[Tensor, "*b m"]:
        """`values` where they are among the `k` largest of all ranks, zero elsewhere.

        All ranks rank the same numbers, so that of equal ones exactly as many remain as may.
        """
        m = values.shape[-1]
        own = pad(values.detach(), (0, k - m), value=-torch.inf).contiguous()
        everyone = torch.cat(self._gathered(own), dim=-1)
        kept = everyone.topk(k, dim=-1, sorted=False).indices
        keep = torch.zeros_like(everyone, dtype=torch.bool).scatter_(-1, kept, True)
        return values.where(keep.split(k, dim=-1)[self.rank][..., :m], 0.0)

    def joined(self, t: Shaped[Tensor, "..."], axis: int) -> Shaped[Tensor, "..."]:
        """The tensors of all ranks, of one shape, side by side along `axis`, on the CPU."""
        return torch.cat(self._gathered(t.detach().cpu().contiguous()), dim=axis)

    def _gathered(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _peers_alive():
            dist.all_gather(parts, own)
        return parts

    def share_(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the first one's tensors."""
        for tensor in tensors:
            told = tensor.contiguous()
            with _peers_alive():
                dist.broadcast(told, src=0)
            tensor.copy_(told)

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


class _Total(torch.autograd.Function):
    """See `Ranks.total`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return _reduced(t, dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Spread(torch.autograd.Function):
    """See `Ranks.spread`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0], dist.ReduceOp.SUM)


def _reduced(t: Tensor, operation: Any) -> Tensor:
    result = t.detach().clone(memory_format=torch.contiguous_format)
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
