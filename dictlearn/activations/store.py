"""Activations on disk: shards of safetensors that are mapped, not read, and one manifest.

manifest.json             written last: without it the folder is not a store
shard_00000.safetensors   one tensor per hook, the same rows in each
mlp_0.safetensors         MLP weights of the first pair of sites, where it has any
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dictlearn.activations.hooks import hook_widths, require_hooks
from dictlearn.activations.manifest import (
    DTYPES,
    MANIFEST_FILE,
    Manifest,
    StoredFile,
    StoredMLP,
)
from dictlearn.activations.shuffle import shuffled_positions
from dictlearn.core.batches import Activations, Rows, require_finite
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import writable_folder
from dictlearn.core.folder_sorts import ACTIVATIONS, require_apart
from dictlearn.core.folders import require_writable
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites

SHARD_BYTES = 64_000_000


class ActivationStore(Activations):
    """A store of rows in a folder: made by `write_store`, opened by `ActivationStore.open`.

    Shards are mapped into memory: rows are read from the disk when a batch asks for them, and
    the operating system keeps what it has room for.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.sites, self.n_rows = manifest.sites, manifest.n_rows
        self.provenance = manifest.provenance
        self.tokens = manifest.tokens
        """The tokens that the rows were harvested from, as described by `core.tokens.Tokens`."""
        self.dtype = manifest.dtype
        self._manifest = manifest
        self._widths = hook_widths(manifest.sites)
        sizes = [shard.n_rows for shard in manifest.shards]
        self._ends = torch.tensor(sizes).cumsum(0)
        self._firsts = [0, *self._ends[:-1].tolist()]
        self._shards = [self._mapped(shard) for shard in manifest.shards]
        self._unread = dict(enumerate(manifest.shards))

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> "ActivationStore":
        """The store in folder `path`; every file's presence and size are checked.

        The hash of each file is checked when it is first read from; with `verify`, all are checked
        at once, which reads the whole store.

        Raises:
            CorruptFileError: the folder is not a finished store, or a file is absent,
                truncated or altered; the message names it.
        """
        folder = Path(path)
        return cls(folder, Manifest.read(folder, verify))

    def mlp_weights(self, sites: Sites) -> MLPWeights | None:
        """The weights of the MLP from source to target of `sites`, where they were harvested.

        Raises:
            CorruptFileError: their file does not hold them.
        """
        stored = dict(zip(self.sites, self._manifest.mlps, strict=True)).get(sites)
        return stored.load(self.path) if stored else None

    def rows(self, seed: int, step: int, n: int) -> Rows:
        return self.rows_of(0, 1, seed, step, n)

    def rows_of(self, rank: int, world_size: int, seed: int, step: int, n: int) -> Rows:
        """The rows of one process, read from the disk shard by shard."""
        walk = shuffled_positions(seed, step * n, n, self.n_rows)
        positions, order = walk[rank::world_size].sort()
        n = len(positions)
        gathered = {hook: torch.empty(n, d, dtype=self.dtype) for hook, d in self._widths.items()}
        counts = torch.searchsorted(positions, self._ends).diff(prepend=torch.tensor([0])).tolist()
        parts = zip(order.split(counts), positions.split(counts), strict=True)
        shards = enumerate(zip(self._shards, self._firsts, parts, strict=True))
        for i, (shard, first, (place, position)) in shards:
            if len(place):
                self._check(i)
                for hook, x in shard.items():
                    gathered[hook][place] = x[position - first]
        return Rows(gathered)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder again, and receives no rows."""
        return ActivationStore.open, (self.path,)

    def locate(self, seed: int, step: int, n: int, row: int) -> str:
        position = shuffled_positions(seed, step * n + row, 1, self.n_rows)
        shard = int(torch.searchsorted(self._ends, position, right=True))
        row_of_shard = int(position) - self._firsts[shard]
        return f"{self._manifest.shards[shard].file}, row {row_of_shard}"

    def _check(self, i: int) -> None:
        """Check the hash of a shard, the first time that rows are read from it."""
        if i in self._unread:
            self._unread[i].check(self.path, verify=True)
            del self._unread[i]

    def _mapped(self, shard: StoredFile) -> dict[str, Tensor]:
        path = self.path / shard.file
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {hook: file.get_tensor(hook) for hook in self._widths}
        except (OSError, SafetensorError) as error:
            raise CorruptFileError(f"{path}: cannot be read as safetensors ({error})") from error
        for hook, d in self._widths.items():
            found = (tuple(tensors[hook].shape), tensors[hook].dtype)
            if found != ((shard.n_rows, d), self.dtype):
                raise CorruptFileError(
                    f"{path}: required {self.dtype} of shape {(shard.n_rows, d)} at hook {hook!r}, "
                    f"got {found[1]} of shape {found[0]}; harvest again"
                )
        return tensors


def estimated_bytes(
    sites: Sequence[Sites],
    n_rows: int,
    dtype: torch.dtype,
    mlps: Collection[MLPWeights] = (),
) -> int:
    """The size of a store of `n_rows` rows, but for its manifest and the headers of shards.

    >>> from dictlearn.core.sites import Site
    >>> estimated_bytes([Sites(Site("x", 8), Site("y", 4))], n_rows=10, dtype=torch.bfloat16)
    240
    """
    weights = [x for mlp in mlps for x in vars(mlp).values() if isinstance(x, Tensor)]
    return n_rows * _row_bytes(hook_widths(sites), dtype) + sum(x.nbytes for x in weights)


def require_no_store(out: str | Path, *, overwrite: bool) -> None:
    """Check that there is a place for a store in the folder `out`.

    Raises:
        InputError: it holds one that may not be replaced, or is a folder of dictionaries or of a
            report, or inside such a folder.
        StorageError: it cannot be written.
    """
    own = OwnFiles(Path(out), "harvest")
    require_apart(own.path, ACTIVATIONS)
    require_writable(own.path)
    if not overwrite and own.lists(MANIFEST_FILE) and (own.path / MANIFEST_FILE).exists():
        raise InputError(
            f"{own.path} holds a store already; choose another folder, or replace that one "
            "(overwrite=True, --overwrite)"
        )


def write_store(
    out: str | Path,
    batches: Iterable[Rows],
    *,
    sites: Sequence[Sites],
    n_rows: int,
    dtype: torch.dtype,
    provenance: Provenance,
    tokens: dict[str, Any],
    mlps: Mapping[Sites, MLPWeights] | None = None,
    overwrite: bool = False,
) -> ActivationStore:
    """The store in folder `out`, written from `batches`, which hold `n_rows` rows in all.

    `mlps` are the weights between source and target of those sites that are an MLP's.

    Each file appears as a whole and the manifest comes last, so a harvest that stops half-way
    leaves no store. If it fails, the files that it wrote are removed; what an unfinished harvest
    left in the folder, and with `overwrite` a store, is removed first. Files that no harvest into
    this folder wrote stay.

    Raises:
        InputError: `out` holds a store already, or files in the way that no harvest wrote there;
            `dtype` is not float32 or bfloat16, or the batches do not hold `n_rows` rows at the
            hooks of `sites`.
        StorageError: the folder cannot be written, or has no room for the store.
        NonFiniteError: a row holds NaN or infinity; the message names its shard and row.
    """
    if dtype not in DTYPES.values() or n_rows < 1:
        raise InputError(
            f"required one of {', '.join(DTYPES)} and at least 1 row, got {dtype} and {n_rows}"
        )
    mlps = mlps or {}
    n_bytes = estimated_bytes(sites, n_rows, dtype, mlps.values())
    require_apart(Path(out), ACTIVATIONS)  # before it is made
    own = OwnFiles.of(out, "harvest")
    folder = own.path
    with own.locked():
        require_no_store(out, overwrite=overwrite)
        n_shards = -(-n_rows // _shard_rows(sites, dtype))
        own.require(MANIFEST_FILE, *map(_mlp_file, range(len(sites))))
        own.require(*map(_shard_file, range(n_shards)))
        own.clear()
        writable_folder(folder, n_bytes)
        try:
            stored = tuple(
                StoredMLP.write(own, _mlp_file(i), mlps[pair]) if pair in mlps else None
                for i, pair in enumerate(sites)
            )
            shards = _write_shards(own, batches, sites, dtype)
            manifest = Manifest(dtype, tuple(sites), stored, shards, provenance, tokens)
            if manifest.n_rows != n_rows:
                raise InputError(f"required batches of {n_rows} rows in all, got {manifest.n_rows}")
            manifest.write(own)
        except BaseException:
            own.clear()
            raise
    return ActivationStore(folder, manifest)


def _mlp_file(i: int) -> str:
    return f"mlp_{i}.safetensors"


def _shard_file(i: int) -> str:
    return f"shard_{i:05d}.safetensors"


def _write_shards(
    own: OwnFiles, batches: Iterable[Rows], sites: Sequence[Sites], dtype: torch.dtype
) -> tuple[StoredFile, ...]:
    widths, size = hook_widths(sites), _shard_rows(sites, dtype)
    shards = []
    for i, shard in enumerate(_recut(batches, widths, dtype, size)):
        for hook, x in shard.items():
            require_finite(x, f"{_shard_file(i)}, hook {hook!r}")
        shards.append(StoredFile.write(own, _shard_file(i), shard, len(next(iter(shard.values())))))
    return tuple(shards)


def _recut(
    batches: Iterable[Rows], widths: dict[str, int], dtype: torch.dtype, size: int
) -> Iterator[dict[str, Tensor]]:
    """The rows of `batches`, in order, as shards of `size` rows; the last one may be smaller."""
    shard = {hook: torch.empty(size, d, dtype=dtype) for hook, d in widths.items()}
    held = 0
    for rows in batches:
        require_hooks(rows, widths)
        taken = 0
        while taken < len(rows):
            count = min(size - held, len(rows) - taken)
            for hook, x in shard.items():
                x[held : held + count] = rows.at[hook][taken : taken + count]
            held, taken = held + count, taken + count
            if held == size:
                yield shard
                held = 0
    if held:
        yield {hook: x[:held] for hook, x in shard.items()}


def _row_bytes(widths: dict[str, int], dtype: torch.dtype) -> int:
    return sum(widths.values()) * dtype.itemsize


def _shard_rows(sites: Sequence[Sites], dtype: torch.dtype) -> int:
    return max(1, SHARD_BYTES // _row_bytes(hook_widths(sites), dtype))
