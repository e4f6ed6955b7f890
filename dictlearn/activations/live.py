"""Activations computed by a model on demand, without storage on disk."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dictlearn.activations.hooks import hook_widths, require_hooks
from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.batches import Activations, Peers, Read, Rows, first_bad_row, require_finite
from dictlearn.core.errors import InputError
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites

_POOLS_KEPT = 2


@dataclass(frozen=True)
class _Span:
    """Consecutive rows of a batch that come from one pool."""

    pool: tuple[int, int, int]
    """Seed, epoch and number of the pool."""
    blocks: Int[Tensor, " block"]
    """The blocks of the pool."""
    positions: Int[Tensor, " n"]
    """The indices of the rows among all rows of the pool."""


class LiveActivations(Activations):
    """A stream over blocks of tokens that `read` turns into rows when they are due.

    Each epoch shuffles the blocks; consecutive pools of `pool_blocks` blocks are read, in parts
    of `read_blocks`, and the rows of a pool are shuffled together. `rows_per_block`
    tells beforehand where a batch lies, so a batch is still a pure function of (seed, step):
    the two pools kept save time and change nothing.

    Compared with a store, rows mix only within a pool: use a larger pool where that matters.

    Raises:
        InputError: there are no rows, or a size is below 1.
    """

    def __init__(
        self,
        read: Read,
        rows_per_block: Int[Tensor, " block"],
        sites: Sequence[Sites],
        provenance: Provenance,
        *,
        mlps: Mapping[Sites, MLPWeights] | None = None,
        pool_blocks: int = 256,
        read_blocks: int = 32,
    ) -> None:
        self.sites, self.provenance = tuple(sites), provenance
        self.n_rows = int(rows_per_block.sum())
        if min(self.n_rows, pool_blocks, read_blocks) < 1:
            raise InputError(
                "required at least 1 row, 1 block a pool and 1 block a read, got "
                f"{self.n_rows}, {pool_blocks} and {read_blocks}"
            )
        self._read = read
        self._rows_per_block = rows_per_block.cpu().long()
        self._mlps = mlps or {}
        self._widths = hook_widths(sites)
        self._pool_blocks = pool_blocks
        self._read_blocks = read_blocks
        self._pools: OrderedDict[tuple[int, int, int], Rows] = OrderedDict()
        self._order: tuple[tuple[int, int], Tensor, Tensor] | None = None

    def mlp_weights(self, sites: Sites) -> MLPWeights | None:
        return self._mlps.get(sites)

    def rows(self, seed: int, step: int, n: int) -> Rows:
        """The `n` shuffled rows of step `step`: the same for the same arguments, always.

        Raises:
            NonFiniteError: a block read for them holds NaN or infinity.
            InputError: `read` returned other rows than it should.
        """
        parts: dict[str, list[Tensor]] = {hook: [] for hook in self._widths}
        for span in self._spans(seed, step * n, n):
            pool = self._pool(span)
            for hook, x in pool.at.items():
                parts[hook].append(x[span.positions.to(x.device)])
        return Rows({hook: torch.cat(part) for hook, part in parts.items()})

    def divided(self, peers: Peers) -> "LiveActivations":
        """The same stream, with the parts of each pool read by different processes.

        Each process then holds the whole pools, in main memory.
        """
        if peers.world_size == 1:
            return self
        return LiveActivations(
            peers.divided(self._read), self._rows_per_block, self.sites, self.provenance,
            mlps=self._mlps, pool_blocks=self._pool_blocks,
            # A default follows from the free memory, which may differ between processes.
            read_blocks=int(peers.all_reduce_min(torch.tensor(self._read_blocks))),
        )  # fmt: skip

    def locate(self, seed: int, step: int, n: int, row: int) -> str:
        (span,) = self._spans(seed, step * n + row, 1)
        block, row_of_block = self._owner(span.blocks, int(span.positions))
        return f"block {block}, row {row_of_block}"

    def _spans(self, seed: int, start: int, n: int) -> list[_Span]:
        spans = []
        while n > 0:
            epoch, row = divmod(start, self.n_rows)
            blocks, ends = self._epoch(seed, epoch)
            pool = int(torch.searchsorted(ends, row, right=True))
            first = int(ends[pool - 1]) if pool else 0
            size = int(ends[pool]) - first
            take = min(n, first + size - row)
            # Counting pools from the first epoch on gives each a shuffle of its own.
            place = (epoch * len(ends) + pool) * size + row - first
            positions = shuffled_positions(seed, place, take, size)
            start_block = pool * self._pool_blocks
            pool_blocks = blocks[start_block : start_block + self._pool_blocks]
            spans.append(_Span((seed, epoch, pool), pool_blocks, positions))
            start, n = start + take, n - take
        return spans

    def _epoch(self, seed: int, epoch: int) -> tuple[Int[Tensor, " block"], Int[Tensor, " pool"]]:
        """The order of blocks, and the number of rows up to the end of each pool."""
        if self._order is None or self._order[0] != (seed, epoch):
            n_blocks = len(self._rows_per_block)
            blocks = shuffled_positions(seed, epoch * n_blocks, n_blocks, n_blocks)
            pools = self._rows_per_block[blocks].split(self._pool_blocks)
            ends = torch.stack([pool.sum() for pool in pools]).cumsum(0)
            self._order = ((seed, epoch), blocks, ends)
        return self._order[1:]

    def _pool(self, span: _Span) -> Rows:
        if span.pool not in self._pools:
            while len(self._pools) >= _POOLS_KEPT:
                self._pools.popitem(last=False)
            parts = span.blocks.split(self._read_blocks)
            rows = self._read(parts)
            for part, some in zip(parts, rows, strict=True):
                self._check(part, some)
            self._pools[span.pool] = Rows(
                {hook: torch.cat([some.at[hook] for some in rows]) for hook in self._widths}
            )
        self._pools.move_to_end(span.pool)
        return self._pools[span.pool]

    def _check(self, blocks: Int[Tensor, " block"], rows: Rows) -> None:
        require_hooks(rows, self._widths)
        n_rows = int(self._rows_per_block[blocks].sum())
        if len(rows) != n_rows:
            raise InputError(
                f"required {n_rows} rows from blocks {blocks.tolist()}, read {len(rows)}; "
                "rows_per_block and read disagree"
            )
        for hook in self._widths:
            x = rows.at[hook]
            if (bad := first_bad_row(x)) is not None:
                block, row = self._owner(blocks, bad)
                size = int(self._rows_per_block[block])
                require_finite(x[bad - row : bad - row + size], f"block {block}, hook {hook!r}")

    def _owner(self, blocks: Int[Tensor, " block"], row: int) -> tuple[int, int]:
        """The block that row `row` of `blocks` belongs to, and its row there."""
        ends = self._rows_per_block[blocks].cumsum(0)
        i = int(torch.searchsorted(ends, row, right=True))
        block = int(blocks[i])
        return block, row - int(ends[i]) + int(self._rows_per_block[block])
