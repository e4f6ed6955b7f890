"""A dictionary on disk: `config.json`, `weights.safetensors`, and nothing executable."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import ConfigError, CorruptFileError, InputError
from dictlearn.core.files import read_json, read_tensors, sha256
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.registry import config_class

DICTIONARY_FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.safetensors"


def save(dictionary: FeatureDictionary, path: str | Path | OwnFiles) -> Path:
    """Write `dictionary` to the folder `path`; the folder.

    The weights are written first and `config.json` last, each atomically, so that a folder with
    a config is complete. A dictionary that `save` wrote there is replaced.

    Raises:
        InputError: the dictionary has no `config`, so that it could not be built again; or the
            folder holds such files that `save` did not write.
        StorageError: the folder cannot be written.
    """
    config = dictionary.config
    if config is None:
        raise InputError(
            f"saving needs dictionary.config, and this {type(dictionary).__name__} has none: write "
            "a DictionaryConfig for it whose build() makes it (docs/adding-a-kind.md)"
        )
    tensors = dictionary.state_dict()
    own = OwnFiles.of(path, "saving a dictionary", sum(t.nbytes for t in tensors.values()))
    own.require(CONFIG_FILE, WEIGHTS_FILE)
    own.remove(CONFIG_FILE)
    own.write_tensors(WEIGHTS_FILE, tensors, {"format": str(DICTIONARY_FORMAT)})
    own.write_json(
        CONFIG_FILE,
        {
            "format": DICTIONARY_FORMAT,
            "kind": dictionary.kind,
            "weights_sha256": own.sha256(WEIGHTS_FILE),
            "config": config.to_dict(),
            "sites": dictionary.sites.to_dict(),
            "provenance": dictionary.provenance.to_dict(),
        },
    )
    return own.path


def load(path: str | Path, kinds: Sequence[type[DictionaryConfig]] = ()) -> FeatureDictionary:
    """The dictionary that `save` wrote to `path`.

    `kinds` are the config classes of custom kinds.

    Raises:
        CorruptFileError: a file is absent, truncated, or does not fit its config.
        ConfigError: the kind is unknown.
    """
    folder = Path(path)
    data = read_json(folder / CONFIG_FILE)
    if data.get("format") != DICTIONARY_FORMAT:
        raise CorruptFileError(
            f"{folder / CONFIG_FILE}: required dictionary format {DICTIONARY_FORMAT}, got "
            f"{data.get('format')!r}; it was written by another version or another library"
        )
    try:
        config = config_class(data["kind"], kinds).from_dict(data["config"])
        sites = Sites.from_dict(data["sites"])
        provenance = Provenance.from_dict(data["provenance"])
        weights_hash = data["weights_sha256"]
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from error
    except (KeyError, TypeError, AttributeError, InputError) as error:
        message = f"{folder / CONFIG_FILE}: an entry is missing or malformed ({error!r})"
        raise CorruptFileError(message) from error
    tensors = read_tensors(folder / WEIGHTS_FILE)
    if sha256(folder / WEIGHTS_FILE) != weights_hash:
        raise CorruptFileError(
            f"{folder / WEIGHTS_FILE}: not the weights that {CONFIG_FILE} was written for; the "
            "file is damaged or was replaced"
        )
    dictionary = config.restored(sites, tensors)
    if "x_mean" in tensors and tensors["x_mean"].dtype == torch.float64:  # else bits are lost
        dictionary.double()
    try:
        dictionary.load_state_dict(tensors)
    except RuntimeError as error:
        message = f"{folder / WEIGHTS_FILE}: does not fit {CONFIG_FILE} ({error})"
        raise CorruptFileError(message) from error
    dictionary.config = config
    dictionary.kind, dictionary.baseline = config.kind, config.baseline
    dictionary.provenance = provenance
    return dictionary.eval()


def load_all(paths: Sequence[Path]) -> dict[str, FeatureDictionary]:
    """The dictionaries in `paths`, each a dictionary's folder or a folder of such folders.

    They are named by their folders, or by whole paths where two folders share a name.

    Raises:
        InputError: a path holds no dictionary.
        CorruptFileError: see `load`.
    """
    folders: list[Path] = []
    for path in paths:
        inner = sorted(p.parent for p in path.glob(f"*/{CONFIG_FILE}"))
        if not (path / CONFIG_FILE).exists() and not inner:
            raise InputError(f"{path}: required a dictionary's folder, or a folder of them")
        folders += [path] if (path / CONFIG_FILE).exists() else inner
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return {name: load(folder) for name, folder in zip(names, folders, strict=True)}
