"""A table of dictionaries and of their training; of those in folders, weights are not read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictlearn.core.config import Config
from dictlearn.core.dictionary import FeatureDictionary
from dictlearn.core.kinds import GradientConfig
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites
from dictlearn.dictionaries.files import described, folders_of

if TYPE_CHECKING:
    import pandas as pd

_LOGGED = ("l0", "fvu", "dead")


def overview(
    dictionaries: "Mapping[str, FeatureDictionary] | Sequence[str | Path] | str | Path",
) -> "pd.DataFrame":
    """One row for each dictionary: kind, settings, hooks, model and training.

    They are given by name, or as folders of dictionaries, or of such folders. `l0`, `fvu` and
    `dead` are the last of the training log, on its last batch; a setting that is not known is
    missing, as for dictionaries of other libraries.

    Raises:
        InputError: a path holds no dictionary.
        CorruptFileError, ConfigError: a config cannot be read.
    """
    import pandas as pd

    if isinstance(dictionaries, Mapping):
        rows = {
            name: _row(d.kind, d.config, d.sites, d.provenance) for name, d in dictionaries.items()
        }
    else:
        found = {name: described(at) for name, at in folders_of(dictionaries).items()}
        rows = {
            name: _row(one.config.kind, one.config, one.sites, one.provenance)
            for name, one in found.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary")


def _row(kind: str, config: Config | None, sites: Sites, origin: Provenance) -> dict[str, Any]:
    training = origin.training
    run = training.get("fit_config") or training.get("finetune_config") or {}
    final = training.get("final", {})
    rate = training.get("learning_rate", run.get("learning_rate"))
    if rate is None and run and isinstance(config, GradientConfig):
        rate = config.default_learning_rate
    return {
        "kind": kind,
        "settings": ", ".join(f"{k}={v}" for k, v in (config.changed() if config else {}).items()),
        "hooks": str(sites),
        **{key: final.get(key) for key in _LOGGED},
        "steps": run.get("steps"),
        "batch_size": run.get("batch_size"),
        "rows": training.get("rows"),
        "learning_rate": rate,
        "seed": origin.seed,
        "model": origin.model,
        "text": origin.text,
        "context": origin.context,
    }
