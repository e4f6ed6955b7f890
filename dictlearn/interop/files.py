"""Common code of the formats: tensors checked by name and shape, and complete folders."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError
from dictlearn.core.files import entries_of, json_text, read_tensors
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Site, Sites

OWN_KEY = "dictlearn"
"""The config entry with information that only this package uses; other libraries ignore it."""

EXPORT = "an export"
"""The kind of run that writes files for another library."""

T = TypeVar("T")


class TensorFile:
    """The tensors of a file, each asked for by name and shape, and none left over."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        self.path = path
        self._tensors = dict(read_tensors(path) if tensors is None else tensors)
        wide = any(t.dtype == torch.float64 and t.ndim == 2 for t in self._tensors.values())
        self.dtype = torch.float64 if wide else torch.float32
        """The dtype of the matrices; half precision is read as float32, without loss."""

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str, n_axes: int = 2) -> tuple[int, ...]:
        """The shape of the tensor `name`, which must have `n_axes` axes.

        Raises:
            CorruptFileError: it is absent or has another number of axes.
        """
        return tuple(self._require(name, (None,) * n_axes).shape)

    def take(self, name: str, *shape: int | None, whole: bool = False) -> Float[Tensor, "..."]:
        """The tensor `name` in float64; None in `shape` stands for any length.

        Raises:
            CorruptFileError: it is absent, has another shape, or is of another type than real
                numbers (or, if `whole`, integers).
        """
        tensor = self._require(name, shape)
        if not tensor.is_floating_point() and (tensor.is_complex() or not whole):
            raise CorruptFileError(
                f"{self.path}: {name!r} must be real numbers, got {tensor.dtype}"
            )
        del self._tensors[name]
        return tensor.to(torch.float64)

    def count(self, name: str) -> int:
        """The number in the tensor `name`, a whole one of at least 1.

        Raises:
            CorruptFileError: it is absent or something else.
        """
        value = float(self.take(name, whole=True))
        return count({name: int(value) if value.is_integer() else value}, name, self.path)

    def _require(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        if name not in self._tensors:
            held = ", ".join(sorted(self._tensors)) or "nothing else"
            raise CorruptFileError(f"{self.path}: required a tensor {name!r}, found {held}")
        tensor = self._tensors[name]
        fits = tensor.ndim == len(shape) and all(
            wanted in (None, length) for wanted, length in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise CorruptFileError(
                f"{self.path}: {name!r} must have shape ({wanted}), got {tuple(tensor.shape)}"
            )
        return tensor

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Check that every tensor was asked for: one that was not would change what is computed.

        Raises:
            CorruptFileError: some were not, and are not among the `ignored` names.
        """
        left = sorted(self._tensors.keys() - set(ignored))
        if left:
            raise CorruptFileError(
                f"{self.path}: holds {', '.join(left)}, which its config does not account for; it "
                "was written by another version, or the config belongs to another file"
            )


def entry(data: Mapping[str, Any], key: str, of: type[T], path: Path) -> T:
    """The entry `key` of a config, of type `of`; a whole number will do where a float is asked.

    Raises:
        CorruptFileError: it is absent or of another type.
    """
    value = data.get(key)
    if of is float and type(value) is int:
        return of(value)  # type: ignore[call-arg]
    if not isinstance(value, of) or (isinstance(value, bool) and of is not bool):
        raise CorruptFileError(
            f"{path}: the entry {key!r} must be {of.__name__}, got "
            f"{value!r}" + ("" if key in data else " (it is absent)")
        )
    return value


def count(data: Mapping[str, Any], key: str, path: Path) -> int:
    """The entry `key` of a config, a whole number of at least 1.

    Raises:
        CorruptFileError: it is absent or something else.
    """
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CorruptFileError(
            f"{path}: the entry {key!r} must be a whole number of at least 1, got {value!r:.80}"
            + ("" if key in data else " (it is absent)")
        )
    return value


def flag(data: Mapping[str, Any], key: str, path: Path, otherwise: bool = False) -> bool:
    """The entry `key` of a config, true or false, or `otherwise` where it is absent.

    Raises:
        CorruptFileError: it is something else.
    """
    return entry(data, key, bool, path) if key in data else otherwise


def require_known(data: Mapping[str, Any], known: Iterable[str], path: Path) -> None:
    """Check that a config has no entries but those that are read here or change nothing.

    Raises:
        InputError: it has; they may change what the dictionary computes.
    """
    unknown = sorted(data.keys() - {*known, OWN_KEY})
    if unknown:
        raise InputError(
            f"{path}: has the settings {', '.join(unknown)[:200]}, which are unknown here and may "
            "change what the dictionary computes; remove them if they do not"
        )


def own_entry(dictionary: FeatureDictionary) -> dict[str, Any]:
    """Sites and provenance of `dictionary`, for formats without fields for them."""
    return {
        "sites": dictionary.sites.to_dict(),
        "provenance": dictionary.provenance.to_dict(),
    }


def own_provenance(data: Mapping[str, Any], otherwise: Provenance, path: Path) -> Provenance:
    """The provenance in what `own_entry` wrote into a config, or `otherwise`.

    Raises:
        CorruptFileError: the entry is malformed.
    """
    own = data.get(OWN_KEY)
    if not isinstance(own, dict) or "provenance" not in own:
        return otherwise
    with entries_of(path):
        return Provenance.from_dict(own["provenance"])


def own_sites(data: Mapping[str, Any], path: Path) -> Sites | None:
    """The sites in what `own_entry` wrote into a config, if it did.

    Raises:
        CorruptFileError: the entry is malformed.
    """
    own = data.get(OWN_KEY)
    if not isinstance(own, dict) or "sites" not in own:
        return None
    with entries_of(path):
        return Sites.from_dict(own["sites"])


def sites_named(source: str, target: str, weights_shape: tuple[int, int]) -> Sites:
    """Sites by their hooks and widths."""
    d_in, d_out = weights_shape
    return Sites(Site(source, d_in), Site(target, d_out))


def require_widths(sites: Sites, widths: tuple[int, int], path: Path) -> Sites:
    """`sites`, if they are as wide as the weights.

    Raises:
        InputError: they are not.
    """
    if (sites.source.d, sites.target.d) != widths:
        raise InputError(
            f"{path}: the weights map width {widths[0]} to width {widths[1]}, the sites {sites} "
            f"have widths {sites.source.d} and {sites.target.d}; pass the sites= it belongs to"
        )
    return sites


def cast(tensors: Mapping[str, Tensor], dictionary: FeatureDictionary) -> dict[str, Tensor]:
    """The tensors in the dtype in which `dictionary` computes, ready to be written."""
    dtype = dictionary.x_mean.dtype
    return {name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}


def write_folder(
    path: Path,
    weights_file: str,
    tensors: Mapping[str, Tensor],
    config_file: str,
    config: dict[str, Any],
) -> Path:
    """Write tensors first and the config last, so that a folder with a config is complete.

    Raises:
        InputError: there are files of these names, and no export to this folder wrote them; or the
            config is that of an export for another library.
    """
    own = OwnFiles.of(path, EXPORT, sum(t.nbytes for t in tensors.values()))
    own.require(weights_file, config_file)
    if (own.path / config_file).exists() and not (own.path / weights_file).exists():
        raise InputError(
            f"{own.path} has a {config_file} and no {weights_file}: it holds an export for another "
            "library, whose config would be replaced; choose another folder, or remove that export"
        )
    own.remove(config_file)
    own.write_tensors(weights_file, dict(tensors), {"format": "pt"})
    own.write_text(config_file, json_text(config))
    return own.path
