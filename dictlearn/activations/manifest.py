"""The manifest: the JSON file that makes a folder a store."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictlearn.activations.hooks import hook_widths
from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import JSON_FORMAT, entries_of, read_own_json, read_tensors, sha256, typed
from dictlearn.core.mlp_weights import MLPWeights
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites

MANIFEST_FILE = "manifest.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_HARVEST_AGAIN = "harvest again"


@dataclass(frozen=True)
class StoredFile:
    """One file beside the manifest, with what is needed to notice that it changed."""

    file: str
    bytes: int
    sha256: str
    n_rows: int = 0
    """Rows of activations; 0 for files that hold something else."""

    @classmethod
    def write(
        cls, own: OwnFiles, name: str, tensors: dict[str, Tensor], n_rows: int = 0
    ) -> "StoredFile":
        """Write tensors to the file `name` as a whole; the entry that describes it."""
        own.write_tensors(name, tensors, {"format": str(JSON_FORMAT)})
        return cls(name, (own.path / name).stat().st_size, own.sha256(name), n_rows)

    def check(self, folder: Path, verify: bool) -> None:
        """Raise a `CorruptFileError` unless the file is whole, and unaltered if `verify`."""
        path = folder / self.file
        if not path.is_file():
            raise CorruptFileError(f"{path}: absent, but the manifest lists it; {_HARVEST_AGAIN}")
        size = path.stat().st_size
        if size != self.bytes:
            raise CorruptFileError(
                f"{path}: required {self.bytes} bytes, got {size}; it was truncated or replaced: "
                f"{_HARVEST_AGAIN}"
            )
        if verify and sha256(path) != self.sha256:
            raise CorruptFileError(
                f"{path}: its SHA-256 is not that in the manifest, so it was altered; "
                f"{_HARVEST_AGAIN}"
            )


@dataclass(frozen=True)
class StoredMLP:
    """The weights between a source and a target, in a file of their own."""

    file: StoredFile
    act_name: str

    @classmethod
    def write(cls, own: OwnFiles, name: str, mlp: MLPWeights) -> "StoredMLP":
        """Write the weights to the file `name`; the entry that describes them."""
        tensors = {name: x for name, x in vars(mlp).items() if isinstance(x, Tensor)}
        return cls(StoredFile.write(own, name, tensors), mlp.act_name)

    def load(self, folder: Path) -> MLPWeights:
        """The weights; a `CorruptFileError` if the file does not hold them."""
        path = folder / self.file.file
        with entries_of(path, "not the weights of an MLP"):
            return MLPWeights(**read_tensors(path, self.file.sha256), act_name=self.act_name)


@dataclass(frozen=True)
class Manifest:
    """Everything about a store but the activations."""

    dtype: torch.dtype
    sites: tuple[Sites, ...]
    mlps: tuple[StoredMLP | None, ...]
    """For each pair of sites, where its MLP weights are, if it has any."""
    shards: tuple[StoredFile, ...]
    provenance: Provenance
    tokens: dict[str, Any]

    @property
    def n_rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.n_rows for shard in self.shards)

    def write(self, own: OwnFiles) -> None:
        """Write `manifest.json`, which turns the folder into a store."""
        data = {
            "dtype": str(self.dtype).removeprefix("torch."),
            "n_rows": self.n_rows,
            "widths": hook_widths(self.sites),
            "sites": [
                {**pair.to_dict(), "mlp": mlp and asdict(mlp)}
                for pair, mlp in zip(self.sites, self.mlps, strict=True)
            ],
            "provenance": self.provenance.to_dict(own.path),
            "tokens": self.tokens,
            "shards": [asdict(shard) for shard in self.shards],
        }
        own.write_json(MANIFEST_FILE, data)

    @classmethod
    def read(cls, folder: Path, verify: bool) -> "Manifest":
        """The manifest in `folder`, once every file it lists was checked.

        Raises:
            CorruptFileError: the manifest is absent or malformed, or a file is absent or of
                another size; if `verify`, also where a file's hash differs.
        """
        path = folder / MANIFEST_FILE
        if not path.is_file():
            found = (
                f"it has no {MANIFEST_FILE}: it is none, or the harvest did not finish"
                if folder.is_dir()
                else "there is no such folder"
            )
            raise CorruptFileError(f"{folder}: required a folder of activations; {found}")
        data = read_own_json(path, "store", _HARVEST_AGAIN)
        with entries_of(path):
            manifest = cls._from_json(data, folder)
            if not manifest.n_rows == data["n_rows"] > 0:
                raise ValueError(f"{manifest.n_rows} rows in shards, n_rows {data['n_rows']}")
            hook_widths(manifest.sites)
        for file in (*manifest.shards, *(mlp.file for mlp in manifest.mlps if mlp)):
            file.check(folder, verify)
        return manifest

    @classmethod
    def _from_json(cls, data: dict[str, Any], folder: Path) -> "Manifest":
        return cls(
            dtype=DTYPES[data["dtype"]],
            sites=tuple(Sites.from_dict(entry) for entry in data["sites"]),
            mlps=tuple(entry["mlp"] and typed(entry["mlp"], StoredMLP) for entry in data["sites"]),
            shards=typed(data["shards"], tuple[StoredFile, ...]),
            provenance=Provenance.from_dict(data["provenance"], folder),
            tokens=typed(data["tokens"], dict[str, Any]),
        )
