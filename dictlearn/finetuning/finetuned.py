"""A model with the dictionaries that were trained in it, in memory and in a folder."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.errors import InputError, ProvenanceError, naming
from dictlearn.core.files import entries_of, read_own_json, typed
from dictlearn.core.kinds import DictionaryConfig, GradientConfig
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.tokens import Tokens
from dictlearn.dictionaries.files import CONFIG_FILE, load, save
from dictlearn.finetuning.blocks import Sampler
from dictlearn.finetuning.config import FinetuneConfig
from dictlearn.interop.codebook_features import is_released, read_released
from dictlearn.interventions.inside import Running, inside
from dictlearn.lm.builtin import BUILTIN_MODELS
from dictlearn.lm.hooks import LanguageModel, is_native
from dictlearn.lm.identity import model_name, model_provenance, require_same_model
from dictlearn.lm.loading import load_model, load_weights
from dictlearn.lm.saving import (
    MODEL_CONFIG_FILE,
    SAVED_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    save_model,
)

DICTIONARIES, MODEL = "dictionaries", "model"
MODEL_FILES = (SAVED_FILE, WEIGHTS_FILE, MODEL_CONFIG_FILE, TOKENIZER_FILE)
"""The files of a model that was saved."""
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
                "model": replace(
                    model_provenance(self.model), model=_loadable_name(self.model)
                ).to_dict(own.path),
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
        check: bool = True,
        kinds: tuple[type[DictionaryConfig], ...] = (),
    ) -> "Finetuned":
        """The model and the dictionaries that `save` or `finetune` wrote to `folder`.

        A model that was trained is in the folder. One that was not is loaded by its name, or from
        the folder that it was in: a new one, or one that is there no more, has to be given as
        `model`, loaded or by its name or folder. `check` compares it with its original, as in
        `load_model`.

        The folder may also be a codebook model of the code of Tamkin et al. (2024), whose weights
        are in the folder, without a config: then `model` is the name, or a folder with the
        `config.json`, of the model that it was made from.

        Raises:
            InputError: the model cannot be found; or `model` is given for a folder with a model of
                its own; or the codebooks cannot be expressed here.
            ProvenanceError: the model is not the one that the dictionaries were trained in.
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
            origin = Provenance.from_dict(data["model"], path)
            settings = typed(data["settings"], dict[str, Any])
        if trained and model is not None:
            raise InputError(
                f"{path}: holds a model of its own, which was trained with its dictionaries: "
                f"required no other (model=, --model), got {model!r:.80}; leave it out"
            )
        dictionaries = {n: load(path / DICTIONARIES / n, kinds) for n in names}
        place = path / MODEL if trained else model
        loaded = _model_of(dictionaries, place, origin, path, check=check)
        return cls(loaded, dictionaries, settings, trained)


def _model_of(
    dictionaries: Mapping[str, FeatureDictionary],
    model: LanguageModel | str | Path | None,
    origin: Provenance,
    folder: Path,
    *,
    check: bool,
) -> LanguageModel:
    """The model that the dictionaries of `folder` were trained in: `model`, or where it was."""
    if model is not None:
        loaded = load_model(model, dtype=_DTYPES.get(origin.dtype), check=check)
        require_same_model(loaded, dictionaries)
        return loaded
    advice = (
        f"{folder}: the model was not trained, so it is not in the folder; give it to "
        "Finetuned.load(folder, model), or as --model"
    )
    found = origin.model_path or origin.model
    if not found:
        raise InputError(f"{advice} (it was new, so no name finds it)")
    try:
        return _model_of(dictionaries, found, origin, folder, check=check)
    except (InputError, ProvenanceError) as error:
        raise type(error)(f"{advice} (from {found}: {error})") from error


def _loadable_name(model: LanguageModel) -> str:
    """The name by which `load_model` finds a model anywhere; empty if it is of a folder or new."""
    name = str(getattr(model.cfg, "model_name", "") or "")
    local = name != model_name(model) or bool(getattr(model.cfg, "loaded_from", ""))
    new = is_native(model) and name not in BUILTIN_MODELS
    return "" if local or new else name


def _released(
    folder: Path, model: LanguageModel | str | Path | None
) -> tuple[LanguageModel, dict[str, FeatureDictionary], dict[str, Any]]:
    """Model, dictionaries and settings of a folder that the authors' code of codebooks wrote."""
    if not isinstance(model, str | Path):
        raise InputError(
            f"{folder}: holds a codebook model without the config of the model that it was made "
            "from; give its name or a folder with its config.json as model= (--model), got "
            f"{'nothing' if model is None else type(model).__name__}"
        )
    found = read_released(folder)
    with naming(folder):
        loaded = load_weights(model, found.weights)
    origin = model_provenance(loaded)
    for codebook in found.codebooks.values():
        codebook.provenance = origin
    return loaded, dict(found.codebooks), found.config


def with_origin(
    model: LanguageModel,
    dictionaries: Mapping[str, FeatureDictionary],
    tokens: Tokens | Sampler,
    config: FinetuneConfig,
    rows: int,
    final: Mapping[str, float],
) -> None:
    """Give the dictionaries their provenance: the model as it is now, text, settings and training.

    `rows` are those that each was trained on; `final` has the last numbers of the log, each under
    "NAME/METRIC".
    """
    origin = replace(model_provenance(model), exclude_special=False)
    if isinstance(tokens, Tokens):
        origin = origin.on(tokens, exclude_special=False)
    for name, dictionary in dictionaries.items():
        kind, start = dictionary.config, f"{name}/"
        assert isinstance(kind, GradientConfig)
        own = {key.removeprefix(start): v for key, v in final.items() if key.startswith(start)}
        dictionary.provenance = origin.trained(
            config.seed, finetune_config=config.to_dict(),
            learning_rate=config.peak_learning_rate(kind), rows=rows,
            final={key: value for key, value in own.items() if math.isfinite(value)},
        )  # fmt: skip
