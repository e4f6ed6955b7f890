"""A dictionary on disk: `config.json`, `weights.safetensors`, and nothing executable."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import CorruptFileError, InputError, NonFiniteError, naming, nearest
from dictlearn.core.files import JSON_FORMAT, entries_of, read_own_json, read_tensors, typed
from dictlearn.core.folder_sorts import DICTIONARY, require_apart
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.registry import config_class

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"


class Description(NamedTuple):
    """A dictionary in a folder, without its weights."""

    config: DictionaryConfig
    sites: Sites
    provenance: Provenance
    weights_sha256: str


def save(dictionary: FeatureDictionary, path: str | Path | OwnFiles) -> Path:
    """Write `dictionary` to the folder `path`; the folder.

    The weights are written first and `config.json` last, each atomically, so that a folder with
    a config is complete. A dictionary that `save` wrote there is replaced.

    Raises:
        InputError: the dictionary has no `config`, so that it could not be built again; or the
            folder holds such files that `save` did not write, or is one of activations or of a
            report, or inside one.
        NonFiniteError: a weight is NaN or infinite.
        StorageError: the folder cannot be written.
    """
    config = dictionary.config
    require_finite_weights(dictionary, f"this {type(dictionary).__name__}")
    if config is None:
        raise InputError(
            f"saving needs dictionary.config, and this {type(dictionary).__name__} has none: write "
            "a DictionaryConfig for it whose build() makes it (docs/adding-a-kind.md)"
        )
    tensors = dictionary.state_dict()
    require_apart(path.path if isinstance(path, OwnFiles) else Path(path), DICTIONARY)
    own = OwnFiles.of(path, "saving a dictionary", sum(t.nbytes for t in tensors.values()))
    own.require(CONFIG_FILE, WEIGHTS_FILE)
    own.remove(CONFIG_FILE)
    own.write_tensors(WEIGHTS_FILE, tensors, {"format": str(JSON_FORMAT)})
    own.write_json(
        CONFIG_FILE,
        {
            "kind": dictionary.kind,
            "weights_sha256": own.sha256(WEIGHTS_FILE),
            "config": config.to_dict(),
            "sites": dictionary.sites.to_dict(),
            "provenance": dictionary.provenance.to_dict(own.path),
        },
    )
    return own.path


def load(path: str | Path, kinds: Sequence[type[DictionaryConfig]] = ()) -> FeatureDictionary:
    """The dictionary that `save` wrote to `path`.

    `kinds` are the config classes of custom kinds.

    Raises:
        InputError: there is no such folder, or it holds several dictionaries.
        CorruptFileError: a file is absent, truncated, or does not fit its config.
        ConfigError: the kind is unknown.
    """
    folder = Path(path)
    _require_one(folder)
    config, sites, provenance, weights_hash = described(folder, kinds)
    tensors = read_tensors(folder / WEIGHTS_FILE, weights_hash)
    _require_plausible(folder, config, sites, tensors)
    with entries_of(folder / WEIGHTS_FILE, f"does not fit {CONFIG_FILE}"):
        dictionary = config.restored(sites, tensors)
        if "x_mean" in tensors and tensors["x_mean"].is_floating_point():  # else bits are lost
            dictionary.to(tensors["x_mean"].dtype)
        dictionary.load_state_dict(tensors)
    require_finite_weights(dictionary, folder / WEIGHTS_FILE)
    dictionary.config = config
    dictionary.kind, dictionary.baseline = config.kind, config.baseline
    dictionary.provenance = provenance
    return dictionary.eval()


def described(folder: Path, kinds: Sequence[type[DictionaryConfig]] = ()) -> Description:
    """The content of the config of a dictionary's folder; its weights are not read.

    Raises:
        CorruptFileError, ConfigError: see `load`.
    """
    path = folder / CONFIG_FILE
    data = read_own_json(path, "dictionary", "save the dictionary again")
    with entries_of(path):
        kind = typed(data["kind"], str)
        weights_hash = typed(data["weights_sha256"], str)
        sites = Sites.from_dict(data["sites"])
        provenance = Provenance.from_dict(data["provenance"], folder)
        settings = typed(data["config"], dict[str, Any])
    with naming(path):
        return Description(
            config_class(kind, kinds).from_dict(settings), sites, provenance, weights_hash
        )


def require_finite_weights(dictionary: FeatureDictionary, where: object) -> None:
    """Check that a dictionary, which is in or goes to a file, holds only finite numbers.

    Raises:
        NonFiniteError: it does not; the message names `where` and the tensor.
    """
    for name, tensor in dictionary.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{where}: {name} holds NaN or infinity; check the activations that it was trained "
                "on and their scale, or the file"
            )


def _require_plausible(
    folder: Path, config: DictionaryConfig, sites: Sites, tensors: Mapping[str, Tensor]
) -> None:
    """Raise a `CorruptFileError`, before memory is allocated, if a size exceeds all axes."""
    largest = max((max(t.shape, default=1) for t in tensors.values()), default=0)
    counts = {key: n for key, n in config.to_dict().items() if key in ("n_features", "n_codes")}
    for name, size in {**counts, "source": sites.source.d, "target": sites.target.d}.items():
        if size is not None and size > largest:
            raise CorruptFileError(
                f"{folder / CONFIG_FILE}: {name} is {size:,}, and no axis of the weights in "
                f"{WEIGHTS_FILE} is longer than {largest:,}"
            )


def load_all(
    paths: str | Path | Sequence[str | Path], kinds: Sequence[type[DictionaryConfig]] = ()
) -> dict[str, FeatureDictionary]:
    """The dictionaries in `paths`, each the folder of a dictionary or a folder of such folders.

    They are named by their folders, or by whole paths where two folders share a name. `kinds` are
    the config classes of custom kinds.

    Raises:
        InputError: a path does not exist, or holds no dictionary.
        CorruptFileError, ConfigError: see `load`.
    """
    return {name: load(folder, kinds) for name, folder in folders_of(paths).items()}


def folders_of(paths: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """The folders of the dictionaries that `load_all` reads, by name.

    Raises:
        InputError: a path does not exist, or holds no dictionary.
    """
    folders: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        found = dictionaries_in(path)
        if not found:
            raise InputError(
                f"{path}: required a dictionary's folder, or a folder of them; {_got(path)}"
            )
        folders += found
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return dict(zip(names, folders, strict=True))


def dictionaries_in(path: Path) -> list[Path]:
    """The folder itself if it is a dictionary's, or else those of dictionaries in it, if any.

    They are in the order of their names, in which k8 is before k16.
    """
    if (path / CONFIG_FILE).exists():
        return [path]
    inner = list(path.glob(f"*/{CONFIG_FILE}")) or path.glob(f"seed*/*/{CONFIG_FILE}")
    return sorted((found.parent for found in inner), key=_in_order)


def _in_order(path: Path) -> list[tuple[str, int]]:
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", str(path))]


def _require_one(folder: Path) -> None:
    """Raise an `InputError` unless `folder` has files of a dictionary, and not of several."""
    inner = dictionaries_in(folder)
    if not inner and not (folder / WEIGHTS_FILE).exists():
        raise InputError(f"{folder}: required a dictionary's folder; {_got(folder)}")
    if inner not in ([], [folder]):
        names = ", ".join(str(p.relative_to(folder)) for p in inner[:8])
        raise InputError(
            f"{folder} holds {len(inner)} dictionaries ({names}{', …' * (len(inner) > 8)}), and "
            f"one is required, such as {inner[0]} (in Python, load_all({str(folder)!r}) gives them "
            "all by name)"
        )


def _got(path: Path) -> str:
    """The content of a path without a dictionary, and the nearest names of folders with one."""
    if path.is_dir():
        names = sorted(own.name for own in path.iterdir())
        return f"this one has {', '.join(names[:5]) or 'nothing in it'}{', …' * (len(names) > 5)}"
    if path.exists():
        return "this is a file"
    around = path.parent.iterdir() if path.parent.is_dir() else ()
    hint = [own.name for own in around if own.is_dir() and dictionaries_in(own)]
    return "there is no such folder" + (f"; {nearest(path.name, hint)}" if hint else "")
