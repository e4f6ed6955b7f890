"""What an evaluation leaves behind: enough to compare dictionaries without any model.

A record keeps, beside the pooled metrics, the sums of every sequence they were pooled from, so
that intervals can be computed later, and the density of every feature.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from dictlearn.core.errors import CorruptFileError
from dictlearn.core.files import read_json, read_tensors
from dictlearn.core.metric import Metric
from dictlearn.core.own_files import OwnFiles
from dictlearn.core.provenance import Provenance
from dictlearn.core.sites import Sites

if TYPE_CHECKING:
    import pandas as pd

RESULTS_FORMAT = 1
RESULTS_FILE = "results.json"
SUMS_FILE = "sums.safetensors"


@dataclass(frozen=True)
class DictionaryRecord:
    """One dictionary's results: its metrics, what they were pooled from, and its densities."""

    kind: str
    sites: Sites
    n_features: int
    provenance: Provenance
    metrics: dict[str, Metric]
    sums: dict[str, Float[Tensor, " sequence"]]
    """Named sums over the counted positions of each sequence, float64 (`metrics.pooled`)."""
    density: Float[Tensor, " feature"]
    """Fraction of rows in which each feature is active."""

    @property
    def seed(self) -> int | None:
        """The seed of the training run, if it had one."""
        return self.provenance.seed


@dataclass(frozen=True)
class Records:
    """The results of several dictionaries on the same tokens of one model."""

    provenance: Provenance
    """The model and the tokens of the evaluation."""
    tokens: dict[str, Any]
    """`source`, `split`, `hash`, `n_tokens`, `n_sequences`, `context`, `exclude_special`."""
    dictionaries: dict[str, DictionaryRecord]

    def to_pandas(self) -> "pd.DataFrame":
        """One row a dictionary, indexed by its name; one column a metric."""
        import pandas as pd

        rows = {
            name: {metric: m.value for metric, m in record.metrics.items()}
            for name, record in self.dictionaries.items()
        }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame.rename_axis("dictionary")

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html()

    def save(self, folder: str | Path | OwnFiles) -> Path:
        """Write `results.json` and `sums.safetensors` to `folder`; the path of the former.

        Raises:
            InputError: there are such files, and they are no results that were saved there.
            StorageError: the folder cannot be written.
        """
        own = OwnFiles.of(folder)
        own.require(RESULTS_FILE, SUMS_FILE)
        tensors: dict[str, Tensor] = {}
        for name, record in self.dictionaries.items():
            tensors |= {f"sums/{key}/{name}": value for key, value in record.sums.items()}
            tensors[f"density/{name}"] = record.density
        own.remove(RESULTS_FILE)  # or an interruption would pair old results with new sums
        own.write_tensors(SUMS_FILE, tensors, {"format": str(RESULTS_FORMAT)})
        own.write_json(RESULTS_FILE, self._to_json())
        return own.path / RESULTS_FILE

    @classmethod
    def load(cls, folder: str | Path) -> "Records":
        """The records in `folder`, or in the folder of the `results.json` named.

        Raises:
            CorruptFileError: a file is absent, truncated or of another format.
        """
        path = Path(folder)
        path = path if path.suffix == ".json" else path / RESULTS_FILE
        data = read_json(path)
        if data.get("format") != RESULTS_FORMAT:
            raise CorruptFileError(
                f"{path}: required results format {RESULTS_FORMAT}, got {data.get('format')!r}; "
                "evaluate again with this version"
            )
        tensors = read_tensors(path.parent / SUMS_FILE)
        try:
            dictionaries = {
                name: _record_from_json(name, entry, tensors)
                for name, entry in data["dictionaries"].items()
            }
            return cls(Provenance.from_dict(data["provenance"]), data["tokens"], dictionaries)
        except (KeyError, TypeError) as error:
            raise CorruptFileError(f"{path}: an entry is missing or malformed ({error})") from error

    def _to_json(self) -> dict[str, Any]:
        return {
            "format": RESULTS_FORMAT,
            "model": self.provenance.model,
            "tokens": self.tokens,
            "provenance": self.provenance.to_dict(),
            "dictionaries": {
                name: {
                    "kind": record.kind,
                    "sites": record.sites.to_dict(),
                    "n_features": record.n_features,
                    "seed": record.seed,
                    "provenance": record.provenance.to_dict(),
                    "metrics": {key: _to_json(m) for key, m in record.metrics.items()},
                }
                for name, record in self.dictionaries.items()
            },
        }


def _to_json(metric: Metric) -> dict[str, Any]:
    if math.isfinite(metric.value):
        return {"value": metric.value}
    return {"value": None, "reason": metric.reason or f"not finite: {metric.value}"}


def _record_from_json(
    name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> DictionaryRecord:
    return DictionaryRecord(
        kind=entry["kind"],
        sites=Sites.from_dict(entry["sites"]),
        n_features=entry["n_features"],
        provenance=Provenance.from_dict(entry["provenance"]),
        metrics={
            key: Metric(math.nan if m["value"] is None else m["value"], m.get("reason", ""))
            for key, m in entry["metrics"].items()
        },
        sums={
            path[1]: tensor
            for path, tensor in ((key.split("/", 2), t) for key, t in tensors.items())
            if path[0] == "sums" and path[2] == name
        },
        density=tensors[f"density/{name}"],
    )
