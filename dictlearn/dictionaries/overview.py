"""A table of the dictionaries in folders and of their training; weights are not read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dictlearn.core.kinds import GradientConfig
from dictlearn.dictionaries.files import Description, described, folders_of

if TYPE_CHECKING:
    import pandas as pd

_LOGGED = ("l0", "fvu", "dead")


def overview(paths: Sequence[str | Path] | str | Path) -> "pd.DataFrame":
    """One row for each dictionary in `paths`: kind, settings, hooks, model and training.

    `l0`, `fvu` and `dead` are the last of the training log, on its last batch; a setting that is
    not known is missing, as for dictionaries of other libraries.

    Raises:
        InputError: a path holds no dictionary.
        CorruptFileError, ConfigError: a config cannot be read.
    """
    import pandas as pd

    given = [paths] if isinstance(paths, str | Path) else paths
    rows = {
        name: _row(described(folder)) for name, folder in folders_of(list(map(Path, given))).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary")


def _row(one: Description) -> dict[str, Any]:
    origin, training = one.provenance, one.provenance.training
    run = training.get("fit_config") or training.get("finetune_config") or {}
    final = training.get("final", {})
    rate = run.get("learning_rate")
    if rate is None and run and isinstance(one.config, GradientConfig):
        rate = one.config.default_learning_rate
    return {
        "kind": one.config.kind,
        "settings": ", ".join(f"{k}={v}" for k, v in one.config.changed().items()),
        "hooks": str(one.sites),
        **{key: final.get(key) for key in _LOGGED},
        "steps": run.get("steps"),
        "batch_size": run.get("batch_size"),
        "learning_rate": rate,
        "seed": origin.seed,
        "model": origin.model,
        "text": origin.text,
        "context": origin.context,
    }
