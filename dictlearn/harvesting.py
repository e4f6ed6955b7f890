"""Activations of a model on tokens, stored on disk or computed live.

Connects `lm/` and `activations/`, which do not import each other.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from rich.console import Console
from torch import Tensor

from dictlearn.activations.live import LiveActivations
from dictlearn.activations.manifest import DTYPES
from dictlearn.activations.store import ActivationStore, estimated_bytes, write_store
from dictlearn.core.batches import Activations, Read, Rows
from dictlearn.core.errors import InputError, nearest
from dictlearn.core.sites import Sites
from dictlearn.core.tokens import Tokens
from dictlearn.distributed.launching import join
from dictlearn.distributed.process_group import ProcessGroup
from dictlearn.lm.attention import fusable_attention
from dictlearn.lm.forward import default_batch_size, reading
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.mlps import mlp_weights
from dictlearn.lm.sites import is_same_site, require_readable, require_sites
from dictlearn.progress import progress as progress_bar
from dictlearn.progress import timed


def require_dtype(dtype: str) -> None:
    """Raise an `InputError` unless rows can be stored in `dtype`."""
    if dtype not in DTYPES:
        raise InputError(
            f"dtype (--dtype) must be one of {', '.join(DTYPES)}, got {dtype!r}; "
            f"{nearest(dtype, DTYPES)}"
        )


@timed("harvest")
def harvest(
    model: LanguageModel,
    tokens: Tokens,
    sites: Sites | Sequence[Sites],
    out: str | Path | None = None,
    *,
    dtype: str = "float32",
    exclude_special: bool = True,
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Activations:
    """The activations of `model` on `tokens` at `sites`, ready for `fit`.

    With `out`, they are written to that folder (its size is printed before it starts) and read
    from there by memory map. Without, nothing is stored: the model computes each batch when
    training needs it. Several sites cost one forward pass, cut short after the deepest of them; a
    repeated pair counts once. With `exclude_special`, special tokens give no rows. `batch_size` is
    in sequences; unless set, it follows from the memory at hand, and changes no more than rounding.

    In a script started by torchrun or `launch`, every process makes the same call with `out`: they
    divide the batches between them, and the first one writes the store, which has the rows that
    one process would have written. Live activations are divided by `fit`.

    Raises:
        InputError: an unknown hook or dtype, no rows, or a store that exists already.
        StorageError: the folder cannot be written, or the disk is too small.
        NonFiniteError: the model gave NaN or infinity; the shard and row are named.
        ProcessError: another process has failed.
    """
    require_readable(model, tokens)
    offered = _distinct(model, sites)
    require_dtype(dtype)
    if batch_size is None:
        batch_size = default_batch_size(model, tokens.ids.shape[1])
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    provenance = model_provenance(model).on(tokens, exclude_special=exclude_special)
    counted = tokens.counted(exclude_special=exclude_special)
    if not counted.any():
        raise InputError(
            f"required at least one non-special token, got none among {tokens.ids.numel():,}; give "
            "other text, or exclude_special=False (--include-special) to harvest special tokens too"
        )
    mlps = {s: weights for s in offered if (weights := mlp_weights(model, s)) is not None}
    reader = _Reader(model, tokens.ids, counted, offered)
    if out is None:
        return LiveActivations(
            reader.read, counted.sum(dim=1), offered, provenance, mlps=mlps, read_blocks=batch_size
        )
    group, n_rows = join(), int(counted.sum())
    batch_size = _agreed(group, batch_size, (str(out), dtype, offered, provenance))
    if group.is_main:
        size = estimated_bytes(offered, n_rows, DTYPES[dtype], mlps.values())
        hooks = " and ".join(reader.hooks)
        Console(stderr=True).print(
            f"harvesting {n_rows:,} rows at {hooks}: {size / 1e6:,.0f} MB", highlight=False
        )
    write = partial(
        write_store, out, sites=offered, n_rows=n_rows, dtype=DTYPES[dtype], provenance=provenance,
        tokens=tokens.describe(), mlps=mlps, overwrite=overwrite,
    )  # fmt: skip
    parts = torch.arange(len(tokens)).split(batch_size)
    shown = progress and group.is_main
    with progress_bar("harvesting", len(tokens), show=shown) as done, reader.open() as read:
        batches = _in_turn(group.divided(read), parts, group.world_size, done)
        group.all_succeed(lambda: write(batches) if group.is_main else list(map(len, batches)))
    return group.all_succeed(lambda: ActivationStore.open(out))


def _agreed(group: ProcessGroup, batch_size: int, call: tuple[object, ...]) -> int:
    """The smallest batch size of all processes, which have to make the same call otherwise.

    Raises:
        InputError: their calls differ.
    """
    calls = group.all_gather_object((batch_size, call))
    if any(other != call for _, other in calls):
        raise InputError(
            "every process must call harvest alike, got calls that differ in folder, dtype, sites, "
            "model or text"
        )
    return min(size for size, _ in calls)


def _in_turn(
    read: Read, parts: Sequence[Int[Tensor, " b"]], n_at_once: int, done: Callable[[int], None]
) -> Iterator[Rows]:
    """The rows of `parts`, in order, read `n_at_once` at a time."""
    for i in range(0, len(parts), n_at_once):
        several = parts[i : i + n_at_once]
        yield from read(several)
        done(int(several[-1][-1]) + 1)


def _distinct(model: LanguageModel, sites: Sites | Sequence[Sites]) -> tuple[Sites, ...]:
    """The sites given, each once, checked to be different sites of the model."""
    offered = (
        tuple(sites) if isinstance(sites, Iterable) and not isinstance(sites, Sites) else (sites,)
    )
    if not offered or not all(isinstance(s, Sites) for s in offered):
        raise InputError(
            "harvest needs Sites, or several of them: hook_sites(model, hook) and "
            f"mlp_sites(model, layer) make them; got {sites!r}"
        )
    offered = tuple(dict.fromkeys(offered))
    for pair, other in combinations(offered, 2):
        sides = ((pair.source, other.source), (pair.target, other.target))
        if all(is_same_site(model, *side) for side in sides):
            raise InputError(
                f"required different sites, got {pair} and {other}, which are names of the same "
                "hooks of this model; keep one of them"
            )
    require_sites(model, {f"the pair {s}": s for s in offered})
    return offered


class _Reader:
    """Reads the activations of non-special tokens, in blocks of tokens, at several hooks."""

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "block pos"],
        counted: Bool[Tensor, "block pos"],
        sites: Sequence[Sites],
    ) -> None:
        self._model, self._ids, self._counted = model, ids, counted
        self.hooks = tuple(dict.fromkeys(hook for s in sites for hook in s.hooks))
        self._attention = fusable_attention(model)

    def read(self, parts: Sequence[Int[Tensor, " b"]]) -> list[Rows]:
        """The rows of each of `parts`, in order, from a forward pass each."""
        with self.open() as read:
            return read(parts)

    @contextmanager
    def open(self) -> Iterator[Read]:
        """`read`, for many calls; the model has its hooks back at the end."""
        with reading(self._model, self.hooks, self._attention) as read:
            yield lambda parts: [self._rows(read, blocks) for blocks in parts]

    def _rows(self, read: Callable[[Tensor], dict[str, Tensor]], blocks: Int[Tensor, " b"]) -> Rows:
        counted = self._counted[blocks]
        return Rows({hook: x[counted.to(x.device)] for hook, x in read(self._ids[blocks]).items()})
