"""A model with the dictionaries that were trained in it, in memory and in a folder."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, naming
from dictlearn.core.files import entries_of, read_own_json, typed
from dictlearn.core.kinds import DictionaryConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.dictionaries.files import CONFIG_FILE, load, save
from dictlearn.interop.codebook_features import is_released, read_released
from dictlearn.interventions.inside import Running, inside
from dictlearn.lm.hooks import LanguageModel
from dictlearn.lm.identity import model_provenance
from dictlearn.lm.loading import load_model, load_weights
from dictlearn.lm.saving import save_model

DICTIONARIES, MODEL = "dictionaries", "model"
_KIND = "finetuned"
_DTYPES = {str(d).removeprefix("torch."): d
           for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}  # fmt: skip


@dataclass(frozen=True)
class Finetuned:
    """A model and the dictionaries that were trained in it."""

    model: LanguageModel
    dictionaries: dict[str, FeatureDictionary]
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the run."""
    model_trained: bool = False
    """Whether the model was trained, and is no longer the one that was loaded."""

    def inside(self, **options: Any) -> AbstractContextManager[Running]:
        """A context in which the model runs through its dictionaries (`inside`)."""
        return inside(self.model, self.dictionaries, **options)

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write the dictionaries, and the model if it was trained, to `folder`; the folder.

        Raises:
            InputError: the folder holds files that were not saved there.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder, "saving a finetuned model")
        own.require(CONFIG_FILE)
        own.remove(CONFIG_FILE)
        for name, dictionary in self.dictionaries.items():
            save(dictionary, own.folder(DICTIONARIES, name))
        if self.model_trained:
            save_model(self.model, own.folder(MODEL))
        own.write_json(
            CONFIG_FILE,
            {
                "kind": _KIND,
                "dictionaries": list(self.dictionaries),
                "model_trained": self.model_trained,
                "model": model_provenance(self.model).to_dict(),
                "settings": self.settings,
            },
        )
        return own.path

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: LanguageModel | str | Path | None = None,
        *,
        kinds: tuple[type[DictionaryConfig], ...] = (),
    ) -> "Finetuned":
        """The model and the dictionaries that `save` or `finetune` wrote to `folder`.

        A model that was not trained is not in the folder: it is loaded by its name, or `model`.

        The folder may also be a codebook model of the code of Tamkin et al. (2024), whose weights
        are in the folder, without a config: then `model` is the name, or a folder with the
        `config.json`, of the model that it was made from.

        Raises:
            InputError: the model cannot be found, or the codebooks cannot be expressed here.
            ProvenanceError: `model` is not the one that the dictionaries were trained in.
            CorruptFileError: a file is absent, truncated, altered, or of another kind.
        """
        path = Path(folder)
        if is_released(path):
            return cls(*_released(path, model), model_trained=True)
        data = read_own_json(path / CONFIG_FILE, "finetuned model", "finetune again")
        with entries_of(path / CONFIG_FILE):
            if typed(data["kind"], str) != _KIND:
                raise ValueError(f"{data['kind']!r} is the kind of a dictionary: use load")
            names = typed(data["dictionaries"], list[str])
            trained = typed(data["model_trained"], bool)
            origin = Provenance.from_dict(data["model"])
            settings = typed(data["settings"], dict[str, Any])
        dtype = _DTYPES.get(origin.dtype)
        loaded = load_model(path / MODEL if trained else model or _named(origin, path), dtype=dtype)
        dictionaries = {n: load(path / DICTIONARIES / n, kinds) for n in names}
        here = model_provenance(loaded)
        for n, dictionary in dictionaries.items():
            dictionary.provenance.require_same_model(here, n)
        return cls(loaded, dictionaries, settings, trained)


def _released(
    folder: Path, model: LanguageModel | str | Path | None
) -> tuple[LanguageModel, dict[str, FeatureDictionary], dict[str, Any]]:
    """Model, dictionaries and settings of a folder that the authors' code of codebooks wrote."""
    if not isinstance(model, str | Path):
        raise InputError(
            f"{folder}: holds a codebook model without the config of the model that it was made "
            "from; give its name or a folder with its config.json as model=, got "
            f"{'nothing' if model is None else type(model).__name__}"
        )
    found = read_released(folder)
    with naming(folder):
        loaded = load_weights(model, found.weights)
    origin = model_provenance(loaded)
    for codebook in found.codebooks.values():
        codebook.provenance = origin
    return loaded, dict(found.codebooks), found.config


def _named(origin: Provenance, folder: Path) -> str:
    if not origin.model:
        raise InputError(
            f"{folder}: the model was not trained, so it is not in the folder, and had no name: "
            "give it as model="
        )
    return origin.model


def with_origin(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    text_hash: str,
    seed: int,
    settings: Mapping[str, Any],
) -> None:
    """Give the dictionaries their provenance: the model as it is now, the text and the settings."""
    origin = replace(
        model_provenance(model), text_hash=text_hash, split="train" if text_hash else "",
        exclude_special=False,
    )  # fmt: skip
    for dictionary in dictionaries.values():
        dictionary.provenance = origin.trained(seed, finetune_config=dict(settings))
