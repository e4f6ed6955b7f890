"""Next-token predictions of spliced models compared with the clean one, in tiles of logits.

The quantities are those of `metrics.rows`. Logits are computed from narrower rows (the inputs of
the unembedding) on demand: a tile of them, some rows by some tokens, is compared with the same
tile of the clean model while both are in the cache. Only the clean logits of one block of rows
are in memory in full.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dictlearn.metrics.inputs import precise, require_paired
from dictlearn.metrics.rows import kl_divergence

Logits: TypeAlias = Callable[[Tensor, slice], Tensor]
"""A function of rows and a range of tokens that returns logits: [n, d] -> [n, tokens]."""

Key = TypeVar("Key")

_TILE_ON_CPU = (512, 512)
"""Rows and tokens of a tile: a megabyte in float32, and a fast matrix product."""
_TILE = (2048, 8192)


@dataclass(frozen=True)
class Agreement:
    """Cross-entropy of each row of logits, and its agreement with the clean row, in float64."""

    cross_entropy: Float[Tensor, " n"]
    kl: Float[Tensor, " n"]
    top1_agreement: Float[Tensor, " n"]


def compared(
    logits: Logits,
    n_vocab: int,
    clean: Float[Tensor, "n d"],
    others: Mapping[Key, Float[Tensor, "n d"]],
    targets: Int[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], dict[Key, Agreement]]:
    """The cross-entropy of the clean model in float64, and the agreement of the others with it.

    `logits(rows, tokens)` gives the logits of a range of the `n_vocab` tokens. Each row is
    measured as by `rows.cross_entropy`, `rows.kl_divergence` and `rows.top1_agreement` on full
    logits, exact up to the rounding of the logits; the divergence of equal logits is exactly 0.

    Raises:
        InputError: rows of another model have another shape than the clean ones.

    >>> rows, targets = torch.tensor([[0.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1])
    >>> loss, found = compared(lambda x, tokens: x[:, tokens], 2, rows, {"same": rows}, targets)
    >>> loss[0].float().exp().item(), found["same"].kl.tolist()
    (2.0, [0.0, 0.0])
    """
    for rows in others.values():
        require_paired(clean, rows)
    n_rows, n_tokens = _TILE_ON_CPU if clean.device.type == "cpu" else _TILE
    tokens = _ranges(n_vocab, n_tokens)
    loss = clean.new_empty(len(clean), dtype=torch.float64)
    found = {name: loss.new_empty(3, len(clean)) for name in others}
    for part in _ranges(len(clean), n_rows):
        block = _Block(logits, tokens, clean[part], targets[part])
        loss[part] = block.cross_entropy()
        for name, measured in block.compared({k: x[part] for k, x in others.items()}).items():
            found[name][:, part] = measured
    return loss, {name: Agreement(*measured) for name, measured in found.items()}


def _ranges(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@dataclass(frozen=True)
class _Positions:
    """The rows with a chosen token in a tile, and the column of the tile that holds it."""

    row: Int[Tensor, " some"]
    column: Int[Tensor, " some"]


def _positions(chosen: Int[Tensor, " n"], tokens: slice) -> _Positions:
    row = ((chosen >= tokens.start) & (chosen < tokens.stop)).nonzero()[:, 0]
    return _Positions(row, chosen[row] - tokens.start)


class _Scan:
    """Statistics of rows of logits, updated tile by tile."""

    def __init__(self, n: int, device: torch.device) -> None:
        self._highest: list[Tensor] = []
        self._within: list[Tensor] = []
        self._target = torch.empty(n, dtype=torch.float64, device=device)
        self.weighted = torch.zeros_like(self._target)
        """The sum over tokens of p times (clean logit - logit)."""
        self.leads = torch.zeros_like(self._target)
        """1.0 where the clean model's top token comes first in its tile."""

    def add_(
        self, tile: Float[Tensor, "n k"], memory: Float[Tensor, "n k"], targets: _Positions
    ) -> None:
        """Update with the next tile; `memory` is overwritten."""
        self._highest.append(tile.amax(dim=1))
        self._within.append(torch.log_softmax(tile, dim=1, out=memory).amax(dim=1))
        self._target[targets.row] = tile[targets.row, targets.column].double()

    def highest_tile(self) -> Int[Tensor, " n"]:
        """The first tile that holds the highest logit."""
        return torch.stack(self._highest).argmax(dim=0)

    def log_normalizer(self) -> Float[Tensor, " n"]:
        """`log sum_v exp(logit_v)`."""
        highest = torch.stack(self._highest).double()
        sums = highest - torch.stack(self._within)  # a tile's share of the highest says its sum
        return torch.where(highest == -torch.inf, highest, sums).logsumexp(dim=0)

    def cross_entropy(self) -> Float[Tensor, " n"]:
        """The negative log-probability of the target."""
        return self.log_normalizer() - self._target


class _Block:
    """A block of rows of the clean model: its logits in tiles, and statistics of them."""

    def __init__(
        self,
        logits: Logits,
        tokens: list[slice],
        rows: Float[Tensor, "n d"],
        targets: Int[Tensor, " n"],
    ) -> None:
        self._logits, self._tokens, self._rows = logits, tokens, rows
        self._tiles = [precise(logits(rows, part)) for part in tokens]
        self._targets = [_positions(targets, part) for part in tokens]
        self._clean = _Scan(len(rows), rows.device)
        tops = []
        for tile, places, part in zip(self._tiles, self._targets, tokens, strict=True):
            self._clean.add_(tile, torch.empty_like(tile), places)
            tops.append(tile.argmax(dim=1) + part.start)
        self._top_tile = self._clean.highest_tile()
        top = torch.stack(tops).gather(0, self._top_tile[None])[0]
        self._tops = [_positions(top, part) for part in tokens]

    def cross_entropy(self) -> Float[Tensor, " n"]:
        """The cross-entropy of the clean model."""
        return self._clean.cross_entropy()

    def compared(self, others: Mapping[Key, Float[Tensor, "n d"]]) -> dict[Key, Tensor]:
        """Cross-entropy, KL divergence and top-1 agreement of the same rows of other models."""
        scans = {name: _Scan(len(rows), rows.device) for name, rows in others.items()}
        normalizer = self._clean.log_normalizer()
        mass = torch.zeros_like(normalizer)
        for i, tile in enumerate(self._tiles):
            p = (tile - normalizer[:, None].to(tile)).exp_()
            mass += p.sum(dim=1)
            memory, top = torch.empty_like(tile), self._tops[i]
            for name, scan in scans.items():
                tile_hat = precise(self._logits(others[name], self._tokens[i]))
                scan.add_(tile_hat, memory, self._targets[i])
                scan.leads[top.row] = (tile_hat[top.row].argmax(dim=1) == top.column).double()
                scan.weighted += torch.sub(tile, tile_hat, out=memory).mul_(p).sum(dim=1)
        return {
            name: self._measured(scan, others[name], scan.weighted / mass)
            for name, scan in scans.items()
        }

    def _measured(self, scan: "_Scan", rows: Tensor, weighted: Tensor) -> Float[Tensor, "3 n"]:
        kl = weighted + scan.log_normalizer() - self._clean.log_normalizer()
        unsure = kl.isnan()  # logits of -inf: the sum has to leave out tokens of probability 0
        if unsure.any():
            every = slice(0, self._tokens[-1].stop)
            tables = (precise(self._logits(x[unsure], every)) for x in (self._rows, rows))
            kl[unsure] = kl_divergence(*tables).double()
        top1 = scan.leads * (scan.highest_tile() == self._top_tile)
        return torch.stack([scan.cross_entropy(), kl, top1])
