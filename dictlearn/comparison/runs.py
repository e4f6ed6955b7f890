"""Loading the records of runs, and combining those that are comparable."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from dictlearn.core.errors import InputError, ProvenanceError, nearest
from dictlearn.records.results import RESULTS_FILE, DictionaryRecord, Records


def load_run(path: str | Path) -> Records:
    """The records of a run: `path` is its folder, or the `results.json` in it.

    Raises:
        InputError: there is no run; the message suggests similar names.
        CorruptFileError: a file of the run is truncated or of another format.
    """
    path = Path(path)
    folder = path.parent if path.suffix == ".json" else path
    if (folder / RESULTS_FILE).is_file():
        return Records.load(folder)
    around = folder if folder.is_dir() else folder.parent
    runs = sorted(file.parent.name for file in around.glob(f"*/{RESULTS_FILE}"))
    hint = nearest(folder.name, runs) if runs else f"no run in {around}; evaluate one first"
    raise InputError(f"required a folder with {RESULTS_FILE}, got {folder}; {hint}")


def combine(runs: Mapping[str, Records]) -> Records:
    """The records of several runs, given by name, combined into one.

    Dictionaries keep their names; those whose name occurs in several runs become `run/name`. Model
    and tokens are taken from the first run, since they must be the same in all.

    Raises:
        InputError: no run is given, or two dictionaries have the same name and run name.
        ProvenanceError: the runs are not comparable, because the tokens, the model, the treatment
            of special tokens or the seed of resample ablation differ.
    """
    if not runs:
        raise InputError("required at least one run to combine, got none")
    (first, reference), *others = runs.items()
    for run, records in others:
        _require_comparable(first, reference, run, records)
    counts = Counter(name for records in runs.values() for name in records.dictionaries)
    dictionaries: dict[str, DictionaryRecord] = {}
    for run, records in runs.items():
        for name, record in records.dictionaries.items():
            key = name if counts[name] == 1 else f"{run}/{name}"
            if key in dictionaries:
                raise InputError(f"two dictionaries would be named {key!r}; rename run {run!r}")
            dictionaries[key] = record
    return Records(reference.provenance, reference.tokens, dictionaries)


def comparison_frame(records: Records) -> pd.DataFrame:
    """One row per dictionary: kind, hook, n_features and seed, then one column per metric."""
    columns = {
        name: (record.kind, str(record.sites), record.n_features, record.seed)
        for name, record in records.dictionaries.items()
    }
    about = pd.DataFrame.from_dict(
        columns, orient="index", columns=["kind", "hook", "n_features", "seed"]
    )
    about["seed"] = about["seed"].astype("Int64")
    return about.rename_axis("dictionary").join(records.to_pandas())


def _require_comparable(first: str, reference: Records, run: str, records: Records) -> None:
    ours, theirs = reference.provenance, records.provenance
    same = ours.fingerprint and theirs.fingerprint and ours.is_same_model(theirs)
    known = {"model_hash": ours.fingerprint or ours.model} if same else {}
    for field, value in (_identity(records) | known).items():
        expected = _identity(reference)[field]
        if value != expected:
            raise ProvenanceError(
                f"runs {first!r} and {run!r} are not comparable: {field} is {expected!r} in the "
                f"first and {value!r} in the second; evaluate both on the same tokens of the same "
                "model, with the same seed"
            )
    if ours.dtype and theirs.dtype and ours.dtype != theirs.dtype:
        warnings.warn(
            f"run {first!r} used the model in {ours.dtype}, run {run!r} in {theirs.dtype}: small "
            "differences may be due to rounding",
            stacklevel=3,
        )


def _identity(records: Records) -> dict[str, object]:
    """The properties that comparable runs share; a model without a hash is identified by name."""
    origin = records.provenance
    return {
        "tokens.hash": records.tokens["hash"],
        "model_hash": origin.fingerprint or origin.model,
        "exclude_special": origin.exclude_special,
        "resample_seed": records.tokens.get("resample_seed"),
    }
