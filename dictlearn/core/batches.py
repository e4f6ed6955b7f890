"""Rows of activations to train on, computed from (seed, step) and not taken from a buffer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dictlearn.core.errors import InputError, NonFiniteError
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites


@dataclass(frozen=True)
class Batch:
    """Aligned rows: `x` read at a source, `y` at a target; `y is x` for an autoencoder."""

    x: Float[Tensor, "n d_in"]
    y: Float[Tensor, "n d_out"]


@dataclass(frozen=True)
class Rows:
    """Rows of activations at several hooks, aligned: row i is one token everywhere."""

    at: dict[str, Float[Tensor, "n _"]]

    def batch(self, sites: Sites) -> Batch:
        """The rows that a dictionary at `sites` reads and writes."""
        x = self.joined(sites.source)
        return Batch(x, x if sites.is_autoencoder else self.joined(sites.target))

    def joined(self, site: Site) -> Float[Tensor, "n d"]:
        """The rows at a site, the activations of several hooks side by side."""
        parts = [self.at[hook] for hook in site.hooks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def __len__(self) -> int:
        return next(iter(self.at.values())).shape[0]

    def of(self, rank: int, world_size: int) -> "Rows":
        """Every `world_size`-th row from row `rank` on: the share of one process."""
        part = slice(rank, None, world_size)
        return Rows({hook: x[part].contiguous() for hook, x in self.at.items()})

    def to(self, device: torch.device, dtype: torch.dtype) -> "Rows":
        """The same rows on `device` as `dtype`; main memory is pinned on the way to a GPU, so that
        the copy does not hold up what runs there."""
        if device.type == "cuda":
            return Rows({hook: _pinned(x).to(device, non_blocking=True).to(dtype)
                         for hook, x in self.at.items()})  # fmt: skip
        return Rows({hook: x.to(device, dtype) for hook, x in self.at.items()})


def _pinned(x: Tensor) -> Tensor:
    return x.pin_memory() if x.device.type == "cpu" else x


Read: TypeAlias = Callable[[Sequence[Int[Tensor, " block"]]], list[Rows]]
"""The rows of each of several parts of a text, each part given by the numbers of its blocks."""


@runtime_checkable
class Peers(Protocol):
    """The processes of a run, as far as activations that they compute together need them."""

    world_size: int

    def all_reduce_min(self, t: Tensor) -> Tensor:
        """The smallest of each entry of `t` over all processes."""

    def divided(self, read: Read) -> Read:
        """`read`, with the parts divided between the processes, and the rows exchanged."""


class Activations(ABC):
    """Activations to train on: a store on disk, a live stream from a model, or tensors.

    `rows(seed, step, n)` is a pure function: batch *t* is computed, not popped. Exact resume
    and "training many equals training each alone" follow from that, not from saved buffers.
    """

    sites: tuple[Sites, ...]
    """The sites offered, in the order harvested."""
    n_rows: int
    """Rows in one epoch."""
    provenance: Provenance

    def __repr__(self) -> str:
        """Their class, number, sites and model."""
        of = f" of {self.provenance.model}" if self.provenance.model else ""
        sites = "; ".join(map(str, self.sites))
        return f"{type(self).__name__}({self.n_rows:,} rows at {sites}{of})"

    @abstractmethod
    def rows(self, seed: int, step: int, n: int) -> Rows:
        """The `n` shuffled rows of step `step`: the same for the same arguments, always."""

    def rows_of(self, rank: int, world_size: int, seed: int, step: int, n: int) -> Rows:
        """The rows of one process among the `n` of a step; override it to read only those."""
        return self.rows(seed, step, n).of(rank, world_size)

    def divided(self, peers: Peers) -> "Activations":
        """The same activations, computed by all processes of a run together.

        Override it where rows are costly. All processes then have to ask for the same steps in
        the same order, and every one receives the rows that it would have computed alone.
        """
        return self

    def locate(self, seed: int, step: int, n: int, row: int) -> str:
        """A description of the origin of row `row` of a batch, for error messages."""
        return f"row {row} of the batch of step {step}"

    def mlp_weights(self, sites: Sites) -> MLPWeights | None:
        """The weights of the MLP from source to target of `sites`, where they were harvested."""
        return None

    def select(self, sites: Sites) -> "Activations":
        """The same rows, offering only `sites`.

        Raises:
            InputError: `sites` is something else, or its hooks are not among those harvested.
        """
        return SelectedActivations(self, sites)

    def require(self, sites: Sites) -> None:
        """Raise an `InputError` unless the hooks of `sites` were harvested, with these widths."""
        if not isinstance(sites, Sites):
            raise InputError(
                f"required one Sites out of those harvested ({'; '.join(map(str, self.sites))}), "
                f"got {sites!r:.80}"
            )
        offered = [site for pair in self.sites for site in (pair.source, pair.target)]
        known = Site.joined(offered)
        for part in (*sites.source.parts, *sites.target.parts):
            if part not in known.parts:
                raise InputError(
                    f"required a site that was harvested ({', '.join(known.hooks)}), got "
                    f"{part.hook!r} of width {part.d}; harvest it first"
                )


class SelectedActivations(Activations):
    """A view of activations that offers one pair of sites out of several."""

    def __init__(self, base: Activations, sites: Sites) -> None:
        base.require(sites)
        self._base = base
        self.sites, self.n_rows, self.provenance = (sites,), base.n_rows, base.provenance

    def mlp_weights(self, sites: Sites) -> MLPWeights | None:
        return self._base.mlp_weights(sites)

    def rows(self, seed: int, step: int, n: int) -> Rows:
        return self._only(self._base.rows(seed, step, n))

    def rows_of(self, rank: int, world_size: int, seed: int, step: int, n: int) -> Rows:
        return self._only(self._base.rows_of(rank, world_size, seed, step, n))

    def divided(self, peers: Peers) -> Activations:
        base = self._base.divided(peers)
        return self if base is self._base else SelectedActivations(base, self.sites[0])

    def _only(self, rows: Rows) -> Rows:
        return Rows({hook: rows.at[hook] for hook in self.sites[0].hooks})

    def locate(self, seed: int, step: int, n: int, row: int) -> str:
        return self._base.locate(seed, step, n, row)


def first_bad_row(x: Float[Tensor, "n d"]) -> int | None:
    """The first row of `x` that holds NaN or infinity, or None.

    One reduction covers the common case, since a finite sum has finite terms only. (The sum of
    finite terms may overflow, so the test by row follows.)
    """
    if torch.isfinite(x.sum()):
        return None
    bad: Bool[Tensor, " n"] = ~torch.isfinite(x).all(dim=1)
    return int(bad.nonzero()[0]) if bad.any() else None


def require_finite(x: Float[Tensor, "n d"], where: str) -> None:
    """Raise a `NonFiniteError` that names `where` and the first bad row, if `x` has one."""
    row = first_bad_row(x)
    if row is not None:
        raise NonFiniteError(
            f"{where}: required finite activations, got NaN or infinity in row {row}; check the "
            "model and its dtype (float16 overflows easily: use bfloat16 or float32)"
        )
